package logpump

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"

	"github.com/nodeagent/nodeagent/pkg/runtime/logpump/crilog"
)

// position is a place in a log: the number of the file, oldest first, and the offset in its
// uncompressed content.
type position struct {
	file   int
	offset int64
}

func (p position) before(o position) bool {
	return p.file < o.file || p.file == o.file && p.offset < o.offset
}

// tailSlack is how many entries to search before the last lines for the beginning of a line whose
// pieces are mixed with the other stream's entries.
const tailSlack = 10_000

// tail walks a log backwards until it knows where the last lines begin. The pieces of one line
// count as one. For each stream, the last lines are all entries from one position on.
type tail struct {
	left   int64         // lines to find
	stream crilog.Stream // "" for both
	from   map[crilog.Stream]position
	open   map[crilog.Stream]bool // earlier pieces would belong to a line that is taken
	slack  int
}

func newTail(lines int64, stream crilog.Stream, end position) *tail {
	return &tail{
		left: lines, stream: stream, slack: tailSlack,
		from: map[crilog.Stream]position{crilog.Stdout: end, crilog.Stderr: end}, open: map[crilog.Stream]bool{},
	}
}

// take handles one entry, the last one first, and reports whether to go on.
func (t *tail) take(at position, s crilog.Stream, partial bool) bool {
	if t.stream != "" && s != t.stream {
		return true
	}
	switch {
	case partial && t.open[s]:
		t.from[s] = at
	case t.left > 0:
		t.left--
		t.from[s], t.open[s] = at, true
	default:
		t.open[s] = false
	}
	if t.left == 0 {
		t.slack--
	}
	return t.left > 0 || t.slack > 0 && (t.open[crilog.Stdout] || t.open[crilog.Stderr])
}

// first returns where printing begins.
func (t *tail) first() position {
	if out, err := t.from[crilog.Stdout], t.from[crilog.Stderr]; out.before(err) {
		return out
	}
	return t.from[crilog.Stderr]
}

// wants reports whether an entry belongs to the last lines, or was written later.
func (t *tail) wants(at position, s crilog.Stream) bool { return t == nil || !at.before(t.from[s]) }

// findTail finds the last lines in the older files and the current one.
func (r *reader) findTail(ctx context.Context, older []string) (*tail, error) {
	t := newTail(*r.o.Tail, crilog.Stream(r.o.Stream), position{len(older), r.end})
	if t.left <= 0 {
		return t, nil
	}
	more, err := scanBack(ctx, r.current, r.end, func(offset int64, line []byte) bool {
		e, err := crilog.Parse(line)
		return err != nil || t.take(position{len(older), offset}, e.Stream, e.Partial)
	})
	for i := len(older) - 1; i >= 0 && more && err == nil; i-- {
		more, err = scanOld(ctx, older[i], func(offset int64, s crilog.Stream, partial bool) bool {
			return t.take(position{i, offset}, s, partial)
		})
	}
	return t, err
}

// scanBack visits the whole lines of f before end, the last one first, until visit returns false;
// more is true if it never did.
func scanBack(ctx context.Context, f io.ReaderAt, end int64, visit func(offset int64, line []byte) bool) (more bool, err error) {
	var rest []byte // from the beginning of what was read to the end of a line, once one was found
	found, long := false, false
	offer := func(offset int64, line []byte) bool {
		skip := long || len(line) > maxEntry
		long = false
		return skip || visit(offset, line)
	}
	for at := end; at > 0; {
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		n := min(at, 64<<10)
		at -= n
		buf := make([]byte, int(n)+len(rest))
		if _, err := f.ReadAt(buf[:n], at); err != nil {
			return false, err //nolint:wrapcheck // the file's name is in it
		}
		copy(buf[n:], rest)
		rest = buf
		if !found {
			last := bytes.LastIndexByte(rest, '\n')
			if last < 0 {
				rest = nil // an unfinished line
				continue
			}
			rest, found = rest[:last+1], true
		}
		for {
			i := bytes.LastIndexByte(rest[:len(rest)-1], '\n')
			if i < 0 {
				break
			}
			if !offer(at+int64(i)+1, rest[i+1:]) {
				return false, nil
			}
			rest = rest[:i+1]
		}
		if long || len(rest) > maxEntry { // only its start matters from here on
			rest, long = rest[:copy(rest, "\n")], true
		}
	}
	return !found || offer(0, rest), nil
}

// maxEntries is how many entries of a compressed file are held in memory: the file does not tell
// its size.
const maxEntries = 4 << 20

// scanOld visits the entries of a rotated file, the last one first. A compressed file can only be
// read forwards.
func scanOld(ctx context.Context, name string, visit func(offset int64, s crilog.Stream, partial bool) bool) (more bool, err error) {
	f, err := openOld(name)
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }()
	if plain, ok := f.(*os.File); ok {
		info, err := plain.Stat()
		if err != nil {
			return false, err //nolint:wrapcheck // the file's name is in it
		}
		return scanBack(ctx, plain, info.Size(), func(offset int64, line []byte) bool {
			e, err := crilog.Parse(line)
			return err != nil || visit(offset, e.Stream, e.Partial)
		})
	}
	type entry struct {
		offset  int64
		stderr  bool
		partial bool
	}
	var entries []entry
	for in, offset := newLines(f), int64(0); ; {
		if len(entries)%1024 == 0 && ctx.Err() != nil {
			return false, ctx.Err()
		}
		line, length, err := in.next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return false, err
		}
		if len(entries) == maxEntries {
			entries = append(entries[:0], entries[maxEntries/2:]...)
		}
		if e, err := crilog.Parse(line); err == nil {
			entries = append(entries, entry{offset, e.Stream == crilog.Stderr, e.Partial})
		}
		offset += length
	}
	for i := len(entries) - 1; i >= 0; i-- {
		s := crilog.Stdout
		if entries[i].stderr {
			s = crilog.Stderr
		}
		if !visit(entries[i].offset, s, entries[i].partial) {
			return false, nil
		}
	}
	return true, nil
}
