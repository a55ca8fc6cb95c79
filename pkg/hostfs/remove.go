package hostfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// The bounds of a removal: of the levels that it holds open, and of how often it goes over a folder
// that others fill meanwhile.
const (
	removeDepth  = 128
	removePasses = 100_000
)

// Remove deletes path and all below it, if nothing is mounted there: what is mounted is somebody's
// data. It goes by descriptor, follows no link, and never crosses into another mount, also one that
// is made while it is at work.
func Remove(path string) error {
	points, err := MountsBelow(path)
	if err != nil {
		return err
	}
	if len(points) > 0 {
		return fmt.Errorf("removing %q: still mounted below it: %s; unmount it or end the program that holds it",
			path, strings.Join(points, ", "))
	}
	parent, err := openParent(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer closing(parent)
	r := remover{}
	if err := r.remove(parent, filepath.Base(path), 0); err != nil {
		return fmt.Errorf("removing %q: %w", path, err)
	}
	return nil
}

// remover is one removal. Folders that are too deep are moved up into the folder that is being
// removed, so that no depth takes more descriptors than removeDepth.
type remover struct {
	top    *os.File
	raised int
}

// remove deletes what has that name in the folder at.
func (r *remover) remove(at *os.File, name string, depth int) error {
	err := unix.Unlinkat(int(at.Fd()), name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("deleting %q: %w", name, err)
	}
	dir, openErr := openat2(int(at.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY, strictly)
	switch {
	case errors.Is(openErr, fs.ErrNotExist):
		return nil
	case errors.Is(openErr, unix.ENOTDIR), errors.Is(openErr, unix.ELOOP):
		return fmt.Errorf("deleting %q: %w", name, err) // a file that may not be deleted
	case errors.Is(openErr, unix.EXDEV):
		return fmt.Errorf("deleting %q: something is mounted on it: unmount it first", name)
	case openErr != nil:
		return openErr
	}
	defer closing(dir)
	if depth == 0 {
		r.top = dir
	}
	if depth >= removeDepth {
		return r.raise(at, name)
	}
	if err := r.empty(dir, depth); err != nil {
		return err
	}
	if err := unix.Unlinkat(int(at.Fd()), name, unix.AT_REMOVEDIR); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("deleting folder %q: %w", name, err)
	}
	return nil
}

// raise moves a folder up to where its removal has all levels before it again.
func (r *remover) raise(at *os.File, name string) error {
	for {
		r.raised++
		err := unix.Renameat2(int(at.Fd()), name, int(r.top.Fd()), fmt.Sprintf("..raised-%d", r.raised), unix.RENAME_NOREPLACE)
		if errors.Is(err, unix.EEXIST) {
			continue
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("moving deep folder %q up: %w", name, err)
		}
		return nil
	}
}

// empty deletes all that is in dir. It lists the folder anew until nothing is left that it could
// delete: file systems may leave names out of a list while others are deleted.
func (r *remover) empty(dir *os.File, depth int) error {
	for range removePasses {
		removed, err := r.pass(dir, depth)
		if removed == 0 {
			return err
		}
	}
	return fmt.Errorf("emptying %q: somebody is still writing to it", dir.Name())
}

func (r *remover) pass(dir *os.File, depth int) (removed int, first error) {
	if _, err := dir.Seek(0, io.SeekStart); err != nil {
		return 0, fmt.Errorf("listing %q: %w", dir.Name(), err)
	}
	for {
		names, err := dir.Readdirnames(batch)
		for _, name := range names {
			if err := r.remove(dir, name, depth+1); err == nil {
				removed++
			} else if first == nil {
				first = err
			}
		}
		if errors.Is(err, io.EOF) {
			return removed, first
		}
		if err != nil {
			return removed, fmt.Errorf("listing %q: %w", dir.Name(), err)
		}
	}
}
