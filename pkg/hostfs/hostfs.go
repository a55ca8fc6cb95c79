// Package hostfs is EDGE: it alone touches files and folders that containers can write to. A
// container may replace a file with a FIFO, a device, a link or a file of any size, and rename or
// mount over folders at any moment. So hostfs works by descriptor (openat2(2)), is bounded, and
// follows no link out of the pod.
//
//	open.go    reading                            group.go    ownership by fsGroup
//	write.go   writing one file                   beneath.go  bind mounts of paths in volumes
//	usage.go   measuring                          tree.go     folders whose contents change at once
//	walk.go    going over a tree                  show.go     the folder of a volume of files
//	remove.go  removal, never into other mounts   hostfs.go   mounts
//	record.go  durable files of the agent itself
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

// Mounted reports whether something is mounted at path; false when path does not exist.
func Mounted(path string) (bool, error) {
	mounted, err := mountinfo.Mounted(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("checking for a mount at %q: %w", path, err)
	}
	return mounted, nil
}

// Tmpfs are the mount options of a tmpfs.
type Tmpfs struct {
	Size  int64 // in bytes; 0: half of the memory
	Mode  fs.FileMode
	Group *int64 // of the root folder; nil: root
	Flags uintptr
}

// MountTmpfs creates the folder path and mounts a tmpfs there, unless something is mounted already.
// Mode and group apply from the first moment. From kernel 6.4 on, its pages are never swapped out.
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

// MountMode are the mount options of tmpfs and hugetlbfs for mode and group of their root folder.
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

// knowsNoswap checks the kernel's version, because older kernels log each attempt.
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

// Unmount unmounts everything that is mounted at path, the topmost mount first. It is no error if
// nothing is. A busy mount is detached: it disappears at once, and is freed with its last user.
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

// unmount unmounts what is mounted at name in a folder. The descriptor keeps others from
// redirecting the path meanwhile.
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

// MountsBelow lists mount points at and below path, deepest first, as the kernel's mount table has
// them: with links in path resolved.
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
	for i := len(infos) - 1; i >= 0; i-- { // the table lists a mount before those on top of it
		points = append(points, infos[i].Mountpoint)
	}
	return points, nil
}

// unmountTries is how often the mounts below a folder are listed, since containers may rename
// folders between list and unmount.
const unmountTries = 8

// UnmountBelow unmounts everything at and below path.
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

// unmountStrictly unmounts a path from the kernel's mount table, unless a part of the path has
// become a link since.
func unmountStrictly(path string) error {
	parent, err := openat2(unix.AT_FDCWD, filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return fmt.Errorf("unmounting %q: %w", path, err)
	}
	defer closing(parent)
	return unmount(parent, filepath.Base(path))
}

// MakeFolder creates a folder of the node's own, with its parents. It refuses a dangling link,
// because the disk behind the link may only be unmounted.
func MakeFolder(path string, mode fs.FileMode) error {
	to, err := os.Readlink(path)
	if _, gone := os.Stat(path); err == nil && errors.Is(gone, fs.ErrNotExist) {
		return fmt.Errorf("making folder %q: it is a link to %q, which does not exist: mount its disk, or create it", path, to)
	}
	if err := os.MkdirAll(path, mode); err != nil {
		return fmt.Errorf("making folder %q: %w: create it by hand, or configure another", path, err)
	}
	return nil
}
