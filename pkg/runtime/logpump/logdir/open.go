package logdir

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// ErrNotRegular says that something else stands where a log should be: a folder, link, FIFO, socket
// or device.
var ErrNotRegular = errors.New("it is not a regular file")

// Open opens a file of a log for reading. Pods that have the logs' folder mounted may have put
// anything in its place: a link is not followed, and a FIFO or device not waited for.
func Open(path string) (*os.File, error) { return OpenFile(path, os.O_RDONLY, 0) }

// OpenFile is Open with flags and the mode of a file that is made.
//
// It does by open(2) what hostfs does by openat2(2) and a descriptor of /proc: the pump, which is
// one process more on every node, is the smaller for not linking that.
func OpenFile(path string, flags int, mode os.FileMode) (*os.File, error) {
	f, err := os.OpenFile(path, flags|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|syscall.O_NOCTTY, mode)
	if errors.Is(err, syscall.ELOOP) || errors.Is(err, syscall.ENXIO) {
		return nil, fmt.Errorf("opening log %q: %w", path, ErrNotRegular)
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("opening log %q: %w", path, ErrNotRegular)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}
