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

// The bounds of a removal: how many levels it holds open, and how often it empties a folder that
// others fill meanwhile.
const (
	removeDepth  = 128
	removePasses = 100_000
)

// Remove deletes path and everything below it. It is an error if something is mounted there: that
// is somebody's data. Remove works by descriptor, follows no link, and never enters another mount,
// even one that is made meanwhile.
func Remove(path string) error {
	points, err := MountsBelow(path)
	if err != nil {
		return err
	}
	if len(points) > 0 {
		return fmt.Errorf("removing %q: still mounted below it: %s; unmount that, or end the program that uses it",
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

// remover is one removal. It moves folders that are too deep up into the removed folder, so that it
// never holds more than removeDepth descriptors.
type remover struct {
	top    *os.File
	raised int
}

// remove deletes name in the folder at.
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
		return fmt.Errorf("deleting %q: %w", name, err) // a file that cannot be deleted
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

// raise moves a folder up into the removed folder, from where its removal starts at the top.
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

// empty deletes the contents of dir. It lists the folder until it can delete nothing more: a file
// system may omit names from a list while others are deleted.
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
