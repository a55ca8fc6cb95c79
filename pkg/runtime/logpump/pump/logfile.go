package pump

import (
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nodeagent/nodeagent/pkg/runtime/logpump/logdir"
	"github.com/nodeagent/nodeagent/pkg/runtime/logpump/wire"
)

// logFile is the file of one container. Its owner serialises the calls.
type logFile struct {
	path   string
	limits wire.Limits
	tidy   func(path string, limits wire.Limits) // called after a rotation
	now    func() time.Time
	file   *os.File
	size   int64
}

// open continues the file of an earlier pump.
func (l *logFile) open() error {
	if err := os.MkdirAll(filepath.Dir(l.path), 0o755); err != nil {
		return err
	}
	f, err := logdir.OpenFile(l.path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o640)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return err
	}
	l.file, l.size = f, info.Size()
	return l.mendTail()
}

// mendTail ends a line that a killed pump left unfinished, so that the next line stays readable.
func (l *logFile) mendTail() error {
	if l.size == 0 {
		return nil
	}
	var b [1]byte
	if _, err := l.file.ReadAt(b[:], l.size-1); err != nil || b[0] == '\n' {
		return err
	}
	n, err := l.file.WriteString("\n")
	l.size += int64(n)
	return err
}

// write appends whole entries and rotates between them, so that no file exceeds the limit. It opens
// the file if necessary, even for no entries.
func (l *logFile) write(entries []byte) error {
	if l.file == nil {
		if err := l.open(); err != nil {
			return err
		}
	}
	for len(entries) > 0 {
		n := fit(entries, l.limits.MaxSize-l.size)
		if n == 0 && l.size > 0 {
			if err := l.rotate(); err != nil {
				return err
			}
			continue
		}
		if n == 0 { // a single entry that exceeds the limit
			n = nextEntry(entries)
		}
		if err := l.append(entries[:n]); err != nil {
			return err
		}
		entries = entries[n:]
	}
	return nil
}

// append writes all of b or, on a full disk, nothing.
func (l *logFile) append(b []byte) error {
	n, err := l.file.Write(b)
	if err != nil && n > 0 {
		if l.file.Truncate(l.size) == nil {
			n = 0
		}
	}
	l.size += int64(n)
	return err
}

// fit returns how many bytes of whole entries fit into room.
func fit(entries []byte, room int64) int {
	if int64(len(entries)) <= room {
		return len(entries)
	}
	n := 0
	for {
		next := nextEntry(entries[n:])
		if next == 0 || int64(n+next) > room {
			return n
		}
		n += next
	}
}

func nextEntry(b []byte) int {
	for i, c := range b {
		if c == '\n' {
			return i + 1
		}
	}
	return len(b)
}

// rotate renames the file and opens a new one.
func (l *logFile) rotate() error {
	if err := os.Rename(l.path, logdir.Next(l.path, l.now())); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("rotating %q: %w", l.path, err)
	}
	l.close()
	if err := l.open(); err != nil {
		return err
	}
	removeExcess(l.path, l.limits)
	l.tidy(l.path, l.limits)
	return nil
}

func (l *logFile) close() {
	if l.file != nil {
		_ = l.file.Close()
		l.file = nil
	}
}

// removeExcess keeps the newest files; the file in use counts as one.
func removeExcess(path string, limits wire.Limits) {
	names := logdir.Rotated(path)
	for len(names) > max(limits.MaxFiles-1, 1) {
		_ = os.Remove(names[0])
		names = names[1:]
	}
}

// compressOlder compresses all rotated files but the newest, which readers are most likely still
// reading.
func compressOlder(path string, limits wire.Limits) {
	names := logdir.Rotated(path)
	for i, name := range names {
		if i == len(names)-1 || strings.HasSuffix(name, ".gz") {
			continue
		}
		compress(name)
	}
	removeExcess(path, limits)
}

func compress(name string) {
	in, err := logdir.Open(name)
	if err != nil {
		return
	}
	defer func() { _ = in.Close() }()
	tmp := name + ".tmp"
	if err := os.Remove(tmp); err != nil && !os.IsNotExist(err) {
		return
	}
	out, err := logdir.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return
	}
	z, _ := gzip.NewWriterLevel(out, gzip.BestSpeed)
	_, err = io.Copy(z, in)
	if cerr := z.Close(); err == nil {
		err = cerr
	}
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp, name+".gz")
	}
	if err != nil {
		_ = os.Remove(tmp)
		return
	}
	_ = os.Remove(name)
}
