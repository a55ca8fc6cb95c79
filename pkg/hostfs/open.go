package hostfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrNotRegular means that a path is not a regular file but a folder, link, FIFO, socket or device.
var ErrNotRegular = errors.New("it is not a regular file")

// ErrTooLong means that a file exceeds the limit of its reader.
var ErrTooLong = errors.New("it is too long")

// Which links openat2(2) follows on the way to a file.
const (
	// anywhere follows all links: the path is the node's own up to its last part, which is opened
	// with O_NOFOLLOW.
	anywhere = unix.RESOLVE_NO_MAGICLINKS
	// beneath follows links that stay in the folder where the path begins.
	beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS
	// inRoot treats that folder as the root folder, as a process in a container does.
	inRoot = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS
	// strictly follows no link and stays in the mount of that folder.
	strictly = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS
)

// maxOpenTries is how often an open is retried while somebody renames folders on its path.
const maxOpenTries = 128

// openat2 opens sub relative to the folder at, with O_CLOEXEC.
func openat2(at int, sub string, flags, resolve uint64) (*os.File, error) {
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: resolve}
	for tries := 0; ; {
		fd, err := unix.Openat2(at, sub, &how)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if tries++; errors.Is(err, unix.EAGAIN) && tries < maxOpenTries {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("opening %q: %w", sub, err)
		}
		return os.NewFile(uintptr(fd), sub), nil
	}
}

// openPath returns a descriptor of what is at path without opening it: it does not wait for a FIFO,
// wake a device or follow a link in the last part.
func openPath(path string) (*os.File, error) {
	return openat2(unix.AT_FDCWD, path, unix.O_PATH|unix.O_NOFOLLOW, anywhere)
}

// openParent returns a descriptor of the folder of path.
func openParent(path string) (*os.File, error) {
	return openat2(unix.AT_FDCWD, filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY, anywhere)
}

// proc is a path to what a descriptor refers to, which nobody can redirect.
func proc(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// closing closes a descriptor that nothing was written through, whose error does not matter.
func closing(file *os.File) { _ = file.Close() }

// regular opens what found refers to, if that is a regular file, and closes found.
func regular(found *os.File, flags int) (*os.File, fs.FileInfo, error) {
	defer closing(found)
	info, err := found.Stat()
	if err != nil {
		return nil, nil, fmt.Errorf("inspecting %q: %w", found.Name(), err)
	}
	if !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("opening %q: %w", found.Name(), ErrNotRegular)
	}
	// O_NONBLOCK: do not wait for a lease on the file.
	file, err := os.OpenFile(proc(found), flags|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("opening %q: %w", found.Name(), err)
	}
	return file, info, nil
}

// readAll reads the regular file that found refers to, and closes found. A file of more than limit
// bytes is an error, also one that grows meanwhile.
func readAll(found *os.File, limit int64) ([]byte, error) {
	file, info, err := regular(found, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer closing(file)
	if info.Size() > limit {
		return nil, fmt.Errorf("reading %q: %w: %d bytes, at most %d", info.Name(), ErrTooLong, info.Size(), limit)
	}
	text, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading %q: %w", info.Name(), err)
	}
	if int64(len(text)) > limit {
		return nil, fmt.Errorf("reading %q: %w: at most %d bytes", info.Name(), ErrTooLong, limit)
	}
	return text, nil
}

// Open opens a regular file for reading. It does not follow a link in the last part of path.
func Open(path string) (*os.File, fs.FileInfo, error) {
	found, err := openPath(path)
	if err != nil {
		return nil, nil, err
	}
	return regular(found, os.O_RDONLY)
}

// Read reads a regular file of at most limit bytes. It does not follow a link in the last part of
// path.
func Read(path string, limit int64) ([]byte, error) {
	found, err := openPath(path)
	if err != nil {
		return nil, err
	}
	return readAll(found, limit)
}

// ReadLinked is Read that follows links, for files that only the node's administrator writes, such
// as /etc/resolv.conf.
func ReadLinked(path string, limit int64) ([]byte, error) {
	found, err := openat2(unix.AT_FDCWD, path, unix.O_PATH, 0)
	if err != nil {
		return nil, err
	}
	return readAll(found, limit)
}

// ReadTail reads at most the last most bytes of a regular file. It does not follow a link in the
// last part of path.
func ReadTail(path string, most int64) ([]byte, error) {
	file, info, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer closing(file)
	text, err := io.ReadAll(io.NewSectionReader(file, max(0, info.Size()-most), most))
	if err != nil {
		return nil, fmt.Errorf("reading the end of %q: %w", path, err)
	}
	return text, nil
}

// ReadBeneath reads a regular file of at most limit bytes below root. It is an error if links lead
// out of root.
func ReadBeneath(root, sub string, limit int64) ([]byte, error) {
	return readBelow(root, sub, beneath|unix.RESOLVE_NO_XDEV, limit)
}

// ReadInRoot reads a regular file of at most limit bytes as a process with the root folder root
// would: absolute links start at root, and none leads out of it.
func ReadInRoot(root, name string, limit int64) ([]byte, error) {
	return readBelow(root, name, inRoot, limit)
}

func readBelow(root, sub string, resolve uint64, limit int64) ([]byte, error) {
	base, err := openat2(unix.AT_FDCWD, root, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer closing(base)
	found, err := openat2(int(base.Fd()), sub, unix.O_PATH, resolve)
	if err != nil {
		return nil, err
	}
	return readAll(found, limit)
}
