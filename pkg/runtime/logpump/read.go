package logpump

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/runtime/logpump/crilog"
	"github.com/nodeagent/nodeagent/pkg/runtime/logpump/logdir"
)

// stampFormat is that of `kubectl logs --timestamps`: always nine digits.
const stampFormat = "2006-01-02T15:04:05.000000000Z07:00"

// errEnough ends a read that reached its limit.
var errEnough = errors.New("enough")

// Read copies the log at path, rotated files included, to stdout and stderr. Both may be the same
// writer, which then gets the entries in order. Read follows across rotations. If ctx ends while
// following, that is no error.
func Read(ctx context.Context, path string, o runtime.LogOptions, stdout, stderr io.Writer) error {
	current, err := logdir.Open(path)
	if err != nil {
		return fmt.Errorf("opening log: %w", err)
	}
	r := &reader{path: path, o: o, current: current, out: printer{o: o, stdout: stdout, stderr: stderr}}
	defer func() { _ = r.current.Close() }()
	if o.LimitBytes != nil {
		r.out.left = *o.LimitBytes
	}
	var changes <-chan fsnotify.Event
	if o.Follow {
		watcher, err := fsnotify.NewWatcher()
		if err == nil { // without a watch (out of inotify watches) the ticker has to do
			defer func() { _ = watcher.Close() }()
			if watcher.Add(filepath.Dir(path)) == nil {
				changes = watcher.Events
			}
		}
	}
	err = r.old(ctx)
	if err == nil {
		err = r.follow(ctx, changes)
	}
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// reader walks the files of one log, oldest first.
type reader struct {
	path    string
	o       runtime.LogOptions
	current *os.File
	end     int64  // size of the current file when reading began; without Follow, reading stops there
	in      *lines // of the current file
	at      position
	tail    *tail // nil: from the start
	out     printer
}

// old reads the rotated files, and moves the current file to where reading starts.
func (r *reader) old(ctx context.Context) error {
	info, err := r.current.Stat()
	if err != nil {
		return err
	}
	r.end = info.Size()
	var older []string
	for _, name := range logdir.Rotated(r.path) {
		if r.before(name) {
			older = append(older, name)
		}
	}
	var first position
	if r.o.Tail != nil {
		if r.tail, err = r.findTail(ctx, older); err != nil {
			return err
		}
		first = r.tail.first()
	}
	for i, name := range older {
		if i < first.file {
			continue
		}
		r.at = position{file: i}
		if err := r.whole(ctx, name); err != nil {
			return err
		}
	}
	r.at = position{file: len(older)}
	if first.file == len(older) {
		r.at = first
	}
	_, err = r.current.Seek(r.at.offset, io.SeekStart)
	return err
}

// before reports whether a rotated file is older than the current one, which may have been rotated
// meanwhile.
func (r *reader) before(name string) bool {
	own, _ := r.currentName()
	return own == r.path || strings.TrimSuffix(name, ".gz") < own
}

// openOld opens a rotated file, compressed or not. A missing file was removed for its age.
func openOld(name string) (io.ReadCloser, error) {
	plain := strings.TrimSuffix(name, ".gz")
	f, err := logdir.Open(plain)
	if err == nil {
		return f, nil
	}
	f, err = logdir.Open(plain + ".gz")
	if os.IsNotExist(err) {
		return io.NopCloser(bytes.NewReader(nil)), nil
	}
	if err != nil {
		return nil, err
	}
	z, err := gzip.NewReader(f)
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("reading %q: %w", f.Name(), err)
	}
	return gzipFile{z, f}, nil
}

type gzipFile struct {
	*gzip.Reader
	file *os.File
}

func (g gzipFile) Close() error { return g.file.Close() }

// whole prints a rotated file.
func (r *reader) whole(ctx context.Context, name string) error {
	f, err := openOld(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	in := newLines(f)
	for n := 0; ; n++ {
		if n%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		line, length, err := in.next(ctx)
		if err == nil {
			err = r.entry(line, length)
		}
		if errors.Is(err, io.EOF) {
			return r.out.flush()
		}
		if err != nil {
			return err
		}
	}
}

// entry prints one entry, if wanted; length is its size in the file.
func (r *reader) entry(line []byte, length int64) error {
	at := r.at
	r.at.offset += length
	return r.out.entry(line, func(s crilog.Stream) bool { return r.tail.wants(at, s) })
}

// follow prints the current file and its successors.
func (r *reader) follow(ctx context.Context, changes <-chan fsnotify.Event) error {
	if !r.o.Follow {
		r.in = newLines(io.LimitReader(r.current, r.end-r.at.offset))
		return r.lines(ctx)
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	r.in = newLines(r.current)
	for {
		ended := r.o.Ended != nil && r.o.Ended()
		next, err := r.advance(ctx)
		if err != nil {
			return err
		}
		if next {
			continue
		}
		if ended {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-changes:
			drainEvents(changes)
		}
	}
}

func drainEvents(changes <-chan fsnotify.Event) {
	for {
		select {
		case <-changes:
		default:
			return
		}
	}
}

// advance prints the current file to its end and, if it was rotated, moves on to the next one. It
// checks for rotation before the last read, so that nothing written before the rotation is missed.
func (r *reader) advance(ctx context.Context) (next bool, err error) {
	name, gone := r.currentName()
	if err := r.lines(ctx); err != nil {
		return false, err
	}
	if name == r.path && !gone {
		return false, nil
	}
	f, err := r.successor(ctx, name)
	if err != nil || f == nil {
		return false, err
	}
	_ = r.current.Close()
	r.current, r.in, r.at = f, newLines(f), position{file: r.at.file + 1}
	return true, nil
}

// lines prints the whole lines up to the current end of the file.
func (r *reader) lines(ctx context.Context) error {
	for n := 0; ; n++ {
		if n%1024 == 0 && ctx.Err() != nil {
			return r.out.flush()
		}
		line, length, err := r.in.next(ctx)
		if err == nil {
			err = r.entry(line, length)
		}
		if errors.Is(err, io.EOF) {
			return r.out.flush()
		}
		if err != nil {
			return err
		}
	}
}

// currentName is the current name of the open file, without .gz; the kernel tracks renames.
func (r *reader) currentName() (name string, gone bool) {
	link, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", r.current.Fd()))
	if err != nil {
		return r.path, false
	}
	base, gone := strings.CutSuffix(filepath.Base(link), " (deleted)")
	return filepath.Join(filepath.Dir(r.path), base), gone
}

// successor opens the file that follows the named one; nil if there is none yet.
func (r *reader) successor(ctx context.Context, name string) (*os.File, error) {
	for _, other := range logdir.Rotated(r.path) {
		if name == r.path || strings.TrimSuffix(other, ".gz") <= name {
			continue
		}
		// it was compressed while the reader was busy with an older file
		if strings.HasSuffix(other, ".gz") {
			r.at = position{file: r.at.file + 1}
			if err := r.whole(ctx, other); err != nil {
				return nil, err
			}
			name = strings.TrimSuffix(other, ".gz")
			continue
		}
		f, err := logdir.Open(other)
		if err == nil {
			return f, nil
		}
	}
	f, err := logdir.Open(r.path)
	if os.IsNotExist(err) {
		return nil, nil
	}
	return f, err
}
