package logpump

import (
	"bufio"
	"context"
	"errors"
	"io"
)

// maxEntry is the longest line in bytes that is read as an entry. The pump's entries are far
// shorter; longer ones come from elsewhere and are skipped, so that no file fills the agent's
// memory.
const maxEntry = 1 << 20

// lines reads a log file line by line. It keeps an unfinished line for the next call.
type lines struct {
	buf  *bufio.Reader
	line []byte
	read int64 // bytes of the line so far, even if skipped
}

func newLines(r io.Reader) *lines { return &lines{buf: bufio.NewReaderSize(r, 64<<10)} }

// next returns the next line with its newline, and its length in the file. A line that is too long
// is returned empty. The result is valid until the next call. io.EOF means that there is no whole
// line.
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
