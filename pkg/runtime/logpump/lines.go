package logpump

import (
	"bufio"
	"context"
	"errors"
	"io"
)

// maxEntry is the longest line of a log file, in bytes, that is taken for an entry. The pump's own
// are a fraction of it; one that is longer was put there by somebody else, and is left out, so that
// no file makes the agent hold all of it.
const maxEntry = 1 << 20

// lines reads a log file line by line. A line that has not ended yet is kept for the next call.
type lines struct {
	buf  *bufio.Reader
	line []byte
	read int64 // of the line so far, also of what is left out
}

func newLines(r io.Reader) *lines { return &lines{buf: bufio.NewReaderSize(r, 64<<10)} }

// next returns the next line with its newline, and how long it is in the file. A line that is too
// long is empty. Both are the caller's until the next call. io.EOF says that no whole line is
// there.
func (l *lines) next(ctx context.Context) (line []byte, length int64, err error) {
	for {
		part, err := l.buf.ReadSlice('\n')
		l.read += int64(len(part))
		if l.read <= maxEntry {
			l.line = append(l.line, part...)
		} else {
			l.line = l.line[:0]
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			err = ctx.Err()
			if err == nil {
				continue
			}
		}
		if err != nil {
			return nil, 0, err
		}
		line, length = l.line, l.read
		l.line, l.read = l.line[:0], 0
		return line, length, nil
	}
}
