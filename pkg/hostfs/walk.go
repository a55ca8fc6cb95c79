package hostfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// The bounds of a walk: it skips folders deeper than maxDepth, with an error, and reads batch names
// at a time. Each level of a walk holds one descriptor.
const (
	maxDepth = 1024
	batch    = 64
)

var errTooDeep = fmt.Errorf("there are folders more than %d deep", maxDepth)

// entry is a file or folder in a walk: name in the folder at, or at itself when name is "".
type entry struct {
	at   *os.File
	name string
	stat *unix.Statx_t
}

func (e entry) dir() bool { return e.stat.Mode&unix.S_IFMT == unix.S_IFDIR }

// walker goes over a tree that others may change, rename and link meanwhile: by descriptor, without
// following links or entering other mounts. What disappears meanwhile does not count.
type walker struct {
	visit func(entry) error
	top   unix.Statx_t
	deep  bool // a folder was skipped because it was too deep
}

// walk calls visit for root and everything below it, for a folder after its contents.
func walk(ctx context.Context, root string, visit func(entry) error) error {
	found, err := openPath(root)
	if err != nil {
		return err
	}
	defer closing(found)
	w := walker{visit: visit}
	if err := statx(found, "", &w.top); err != nil {
		return err
	}
	if w.top.Mode&unix.S_IFMT != unix.S_IFDIR {
		return visit(entry{at: found, stat: &w.top})
	}
	dir, err := openat2(int(found.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY, strictly)
	if err != nil {
		return err
	}
	if err := w.folder(ctx, dir, &w.top, 0); err != nil {
		return err
	}
	if w.deep {
		return fmt.Errorf("walking %q: %w", root, errTooDeep)
	}
	return nil
}

// folder visits a folder with its contents, and closes it.
func (w *walker) folder(ctx context.Context, dir *os.File, stat *unix.Statx_t, depth int) error {
	defer closing(dir)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		names, err := dir.Readdirnames(batch)
		for _, name := range names {
			if err := w.entry(ctx, dir, name, depth); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return w.visit(entry{at: dir, stat: stat})
		}
		if err != nil {
			return fmt.Errorf("listing %q: %w", dir.Name(), err)
		}
	}
}

func (w *walker) entry(ctx context.Context, dir *os.File, name string, depth int) error {
	var stat unix.Statx_t
	if err := statx(dir, name, &stat); err != nil {
		return unlessGone(err)
	}
	if elsewhere(&stat, &w.top) {
		return nil
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFDIR {
		return w.visit(entry{at: dir, name: name, stat: &stat})
	}
	if depth+1 >= maxDepth {
		w.deep = true
		return nil
	}
	sub, err := openat2(int(dir.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY, strictly)
	if err != nil {
		return unlessGone(err)
	}
	return w.folder(ctx, sub, &stat, depth+1)
}

// unlessGone drops the errors that mean that an entry was removed, is no longer a folder, or has
// been mounted over.
func unlessGone(err error) error {
	for _, gone := range []error{fs.ErrNotExist, unix.ENOTDIR, unix.ELOOP, unix.EXDEV} {
		if errors.Is(err, gone) {
			return nil
		}
	}
	return err
}

// statx answers from the kernel's cache: a network file system that is mounted there might not
// answer.
func statx(dir *os.File, name string, stat *unix.Statx_t) error {
	const flags = unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT | unix.AT_STATX_DONT_SYNC
	at := 0
	if name == "" {
		at = unix.AT_EMPTY_PATH
	}
	for {
		err := unix.Statx(int(dir.Fd()), name, flags|at, unix.STATX_BASIC_STATS|unix.STATX_MNT_ID, stat)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("inspecting %q: %w", name, err)
		}
		return nil
	}
}

// elsewhere reports whether a is on another mount than b. Before kernel 5.8, it only sees other
// devices.
func elsewhere(a, b *unix.Statx_t) bool {
	if a.Dev_major != b.Dev_major || a.Dev_minor != b.Dev_minor {
		return true
	}
	return a.Mask&b.Mask&unix.STATX_MNT_ID != 0 && a.Mnt_id != b.Mnt_id
}
