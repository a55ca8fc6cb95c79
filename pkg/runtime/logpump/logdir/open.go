package logdir

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// ErrNotRegular means that a log's path is not a regular file but a folder, link, FIFO, socket or
// device.
var ErrNotRegular = errors.New("it is not a regular file")

// Open opens a log file for reading. Pods that mount the log folder may have replaced the file, so
// it follows no link and never waits for a FIFO or device.
func Open(path string) (*os.File, error) { return OpenFile(path, os.O_RDONLY, 0) }

// OpenFile is Open with flags and the mode of a created file.
//
// It uses open(2), unlike hostfs with its openat2(2) and /proc descriptors: the pump runs on every
// node and stays smaller without hostfs.
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
