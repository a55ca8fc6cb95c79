// Package hostfs is EDGE: what the node does to files and folders that containers can write to. A
// container may put a FIFO, a device, a link or a file of any size where a file was, rename folders
// and mount on them while the node goes by. So everything here goes by descriptor (openat2(2)), is
// bounded, and follows no link out of the pod: reading (open.go), writing (write.go), measuring
// (usage.go), ownership by fsGroup (group.go), removal that never reaches into another mount
// (remove.go), paths in volumes (beneath.go), folders whose contents change as a whole (tree.go),
// and mounts. It decides nothing.
package hostfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

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

// Tmpfs says how a tmpfs is mounted.
type Tmpfs struct {
	Size  int64 // in bytes; 0 for half of the memory
	Mode  fs.FileMode
	Group *int64 // of the folder; nil: root
	Flags uintptr
}

// MountTmpfs makes path and mounts a tmpfs there unless one is: mode and group are there from the
// first moment. Where the kernel can (6.4 and later), its pages are kept out of swap.
func MountTmpfs(path string, t Tmpfs) error {
	if err := os.MkdirAll(path, 0o750); err != nil {
		return fmt.Errorf("making mount point: %w", err)
	}
	mounted, err := Mounted(path)
	if err != nil || mounted {
		return err
	}
	options := MountMode(t.Mode, t.Group)
	if t.Size > 0 {
		options += fmt.Sprintf(",size=%d", t.Size)
	}
	if knowsNoswap() {
		options += ",noswap"
	}
	if err := unix.Mount("tmpfs", path, "tmpfs", t.Flags, options); err != nil {
		return fmt.Errorf("mounting tmpfs (%s) at %q: %w", options, path, err)
	}
	return nil
}

// MountMode has the options that tmpfs and hugetlbfs take for mode and group of their topmost
// folder.
func MountMode(mode fs.FileMode, group *int64) string {
	bits := uint32(mode.Perm())
	if mode&fs.ModeSticky != 0 {
		bits |= unix.S_ISVTX
	}
	if mode&fs.ModeSetgid != 0 {
		bits |= unix.S_ISGID
	}
	options := fmt.Sprintf("mode=%04o", bits)
	if group != nil {
		options += fmt.Sprintf(",gid=%d", *group)
	}
	return options
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

// Unmount takes off everything that is mounted at path, the topmost first. Nothing there is no
// error. A mount that is busy is detached: it goes away for everybody who looks now, and for good
// with its last user.
func Unmount(path string) error {
	parent, err := openParent(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer closing(parent)
	return unmount(parent, filepath.Base(path))
}

// unmount takes off what is mounted at name in a folder, which nobody can turn elsewhere meanwhile.
func unmount(parent *os.File, name string) error {
	path := proc(parent) + "/" + name
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
			return fmt.Errorf("unmounting %q of %q: %w", name, parent.Name(), err)
		}
	}
}

// MountsBelow lists mount points at and below path, deepest first, by their paths without links:
// where path is reached by a link, the kernel's table has what the link leads to.
func MountsBelow(path string) ([]string, error) {
	parent, err := filepath.EvalSymlinks(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("resolving %q: %w", path, err)
	}
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(filepath.Join(parent, filepath.Base(path))))
	if err != nil {
		return nil, fmt.Errorf("listing mounts below %q: %w", path, err)
	}
	points := make([]string, 0, len(infos))
	for i := len(infos) - 1; i >= 0; i-- { // the table has a mount before those on top of it
		points = append(points, infos[i].Mountpoint)
	}
	return points, nil
}

// unmountTries is how often the mounts below a folder are listed: containers may rename folders
// between list and unmount.
const unmountTries = 8

// UnmountBelow takes off every mount at and below path.
func UnmountBelow(path string) error {
	var all error
	for range unmountTries {
		points, err := MountsBelow(path)
		if err != nil || len(points) == 0 {
			return err
		}
		all = nil
		for _, p := range points {
			all = errors.Join(all, unmountStrictly(p))
		}
	}
	return all
}

// unmountStrictly takes off what is mounted at a path of the kernel's mount table, if no part of it
// has become a link since.
func unmountStrictly(path string) error {
	parent, err := openat2(unix.AT_FDCWD, filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return fmt.Errorf("unmounting %q: %w", path, err)
	}
	defer closing(parent)
	return unmount(parent, filepath.Base(path))
}

// MakeFolder makes a folder of the node's own with those above it. A link that leads nowhere is
// refused, as the disk that it leads to may only be missing.
func MakeFolder(path string, mode fs.FileMode) error {
	to, err := os.Readlink(path)
	if _, gone := os.Stat(path); err == nil && errors.Is(gone, fs.ErrNotExist) {
		return fmt.Errorf("making folder %q: it is a link to %q, which does not exist: mount the disk that it is on, or make it", path, to)
	}
	if err := os.MkdirAll(path, mode); err != nil {
		return fmt.Errorf("making folder %q: %w: make it by hand, or name another", path, err)
	}
	return nil
}
