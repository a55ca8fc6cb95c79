package hostfs

import (
	"context"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// SetGroup gives a tree to a group, for fsGroup: the group may read and, unless readOnly, write;
// folders are setgid, so that new files belong to the group too. Of links, only the group changes;
// none is followed. What is mounted below stays as it is.
func SetGroup(root string, gid int64, readOnly bool) error {
	err := walk(context.Background(), root, func(e entry) error { //nolint:forbidigo // bounded by the tree
		return e.setGroup(int(gid), readOnly)
	})
	if err != nil {
		return fmt.Errorf("giving %q to group %d: %w", root, gid, err)
	}
	return nil
}

func (e entry) setGroup(gid int, readOnly bool) error {
	at := e.at
	if e.name != "" {
		// The changes apply to what this descriptor refers to, even if its name changes meanwhile.
		found, err := openat2(int(e.at.Fd()), e.name, unix.O_PATH|unix.O_NOFOLLOW, strictly)
		if err != nil {
			return unlessGone(err)
		}
		defer closing(found)
		at = found
	}
	info, err := at.Stat() // before fchown, which clears setuid bits
	if err != nil {
		return fmt.Errorf("inspecting %q: %w", at.Name(), err)
	}
	if err := unix.Fchownat(int(at.Fd()), "", -1, gid, unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("setting the group of %q: %w", at.Name(), err)
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		return nil
	}
	return chmod(at, GroupMode(info.Mode(), readOnly))
}

// GroupMode is the mode of a file or folder that belongs to an fsGroup.
func GroupMode(mode fs.FileMode, readOnly bool) fs.FileMode {
	keep := mode & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)
	keep |= 0o440
	if !readOnly {
		keep |= 0o220
	}
	if mode.IsDir() {
		keep |= 0o110 | fs.ModeSetgid
	}
	return keep
}
