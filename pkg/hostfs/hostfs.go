// Package hostfs is EDGE: the few things that volumes do to the host's file system: tmpfs mounts, ownership by fsGroup,
// removal that never reaches into another mount, folders whose contents change as a whole (tree.go), and paths that cannot
// be led out of a folder (beneath.go). It decides nothing.
package hostfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Mounted says whether something is mounted at path; a path that does not exist is not mounted.
func Mounted(path string) (bool, error) {
	mounted, err := mountinfo.Mounted(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking for a mount at %q: %w", path, err)
	}
	return mounted, nil
}

// MountTmpfs makes path, mounts a tmpfs there unless one is, and sets its mode. size is in bytes, 0 for half of the memory.
// Where the kernel can (6.4 and later), its pages are kept out of swap.
func MountTmpfs(path string, size int64, mode fs.FileMode) error {
	if err := os.MkdirAll(path, 0o750); err != nil {
		return fmt.Errorf("making mount point: %w", err)
	}
	mounted, err := Mounted(path)
	if err != nil || mounted {
		return err
	}
	options := fmt.Sprintf("mode=%04o", mode.Perm())
	if size > 0 {
		options += fmt.Sprintf(",size=%d", size)
	}
	if knowsNoswap() {
		options += ",noswap"
	}
	if err := unix.Mount("tmpfs", path, "tmpfs", 0, options); err != nil {
		return fmt.Errorf("mounting tmpfs (%s) at %q: %w", options, path, err)
	}
	return nil
}

// knowsNoswap goes by the version: an older kernel would log each attempt.
func knowsNoswap() bool {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return false
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor); err != nil {
		return false
	}
	return major > 6 || (major == 6 && minor >= 4)
}

// Unmount takes off everything that is mounted at path, the topmost first. Nothing there is no error. A mount that is busy is
// detached: it goes away for everybody who looks now, and for good with its last user.
func Unmount(path string) error {
	for {
		err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EBUSY) {
			err = unix.Unmount(path, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
		}
		switch {
		case err == nil:
			continue
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil
		default:
			return fmt.Errorf("unmounting %q: %w", path, err)
		}
	}
}

// MountsBelow lists mount points at and below path, deepest first.
func MountsBelow(path string) ([]string, error) {
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(path))
	if err != nil {
		return nil, fmt.Errorf("listing mounts below %q: %w", path, err)
	}
	points := make([]string, 0, len(infos))
	for i := len(infos) - 1; i >= 0; i-- { // the table has a mount before those on top of it
		points = append(points, infos[i].Mountpoint)
	}
	return points, nil
}

// UnmountBelow takes off every mount at and below path.
func UnmountBelow(path string) error {
	points, err := MountsBelow(path)
	if err != nil {
		return err
	}
	var all error
	for _, p := range points {
		all = errors.Join(all, Unmount(p))
	}
	return all
}

// Remove deletes path and all below it, if nothing is mounted there: what is mounted is somebody's data.
func Remove(path string) error {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	points, err := MountsBelow(path)
	if err != nil {
		return err
	}
	if len(points) > 0 {
		return fmt.Errorf("removing %q: still mounted below it: %s; unmount it or end the program that holds it",
			path, strings.Join(points, ", "))
	}
	if err := os.RemoveAll(path); err != nil {
		return fmt.Errorf("removing %q: %w", path, err)
	}
	return nil
}

// SetGroup gives a tree to a group as fsGroup wants it: the group may read and, unless readOnly, write; folders are setgid, so
// that new files are the group's too. Links are left as they are, but for their group.
func SetGroup(root string, gid int64, readOnly bool) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("giving %q to group %d: %w", root, gid, err)
		}
		if err := os.Lchown(path, -1, int(gid)); err != nil {
			return fmt.Errorf("giving %q to group %d: %w", path, gid, err)
		}
		if d.Type()&fs.ModeSymlink != 0 {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return fmt.Errorf("giving %q to group %d: %w", path, gid, err)
		}
		return chmod(path, groupMode(info.Mode(), readOnly))
	})
}

func groupMode(mode fs.FileMode, readOnly bool) fs.FileMode {
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

func chmod(path string, mode fs.FileMode) error {
	if err := os.Chmod(path, mode); err != nil {
		return fmt.Errorf("setting mode of %q: %w", path, err)
	}
	return nil
}
