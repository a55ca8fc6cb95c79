package hostfs

import (
	"context"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// SetGroup gives a tree to a group as fsGroup wants it: the group may read and, unless readOnly,
// write; folders are setgid, so that new files are the group's too. Links are left as they are, but
// for their group, and none is followed; what is mounted below is not touched.
func SetGroup(root string, gid int64, readOnly bool) error {
	err := walk(context.Background(), root, func(e entry) error { //nolint:forbidigo // bounded by the tree, which is the node's own
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
		// What is changed is what this descriptor refers to, whatever takes its name meanwhile.
		found, err := openat2(int(e.at.Fd()), e.name, unix.O_PATH|unix.O_NOFOLLOW, strictly)
		if err != nil {
			return unlessGone(err)
		}
		defer closing(found)
		at = found
	}
	info, err := at.Stat() // before the kernel takes setuid bits from what changes hands
	if err != nil {
		return fmt.Errorf("looking at %q: %w", at.Name(), err)
	}
	if err := unix.Fchownat(int(at.Fd()), "", -1, gid, unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("setting the group of %q: %w", at.Name(), err)
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		return nil
	}
	return chmod(at, GroupMode(info.Mode(), readOnly))
}

// GroupMode is the mode of what belongs to an fsGroup.
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
