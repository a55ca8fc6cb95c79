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

// ErrNotRegular says that something else stands where a file should be: a folder, link, FIFO,
// socket or device.
var ErrNotRegular = errors.New("it is not a regular file")

// ErrTooLong says that a file is longer than its reader takes.
var ErrTooLong = errors.New("it is longer than the node reads")

// Which links are followed on the way to a file, as openat2(2) puts it.
const (
	// anywhere: the path is the node's own up to its last part, which is opened with O_NOFOLLOW.
	anywhere = unix.RESOLVE_NO_MAGICLINKS
	// beneath follows links as long as they stay in the folder that the walk began in.
	beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS
	// inRoot takes the folder for the root folder, as a process in a container does.
	inRoot = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS
	// strictly follows no link at all and stays in the mount of the folder that the walk began in.
	strictly = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS
)

// moved is how often an open is tried again while somebody renames folders on its way.
const moved = 128

// openat2 opens sub, seen from the folder at; the descriptor is closed on exec.
func openat2(at int, sub string, flags, resolve uint64) (*os.File, error) {
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: resolve}
	for tries := 0; ; {
		fd, err := unix.Openat2(at, sub, &how)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if tries++; errors.Is(err, unix.EAGAIN) && tries < moved {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("opening %q: %w", sub, err)
		}
		return os.NewFile(uintptr(fd), sub), nil
	}
}

// openPath refers to what is at path, without opening it: a FIFO is not waited for, a device not
// woken, a last link not followed.
func openPath(path string) (*os.File, error) {
	return openat2(unix.AT_FDCWD, path, unix.O_PATH|unix.O_NOFOLLOW, anywhere)
}

// openParent refers to the folder that path is in.
func openParent(path string) (*os.File, error) {
	return openat2(unix.AT_FDCWD, filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY, anywhere)
}

// proc is a path to what a descriptor refers to, which nobody can turn elsewhere.
func proc(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// closing lets go of a descriptor that nothing was written through: its error has nothing to tell.
func closing(file *os.File) { _ = file.Close() }

// regular opens what found refers to, if it is a regular file, and closes found.
func regular(found *os.File, flags int) (*os.File, fs.FileInfo, error) {
	defer closing(found)
	info, err := found.Stat()
	if err != nil {
		return nil, nil, fmt.Errorf("looking at %q: %w", found.Name(), err)
	}
	if !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("opening %q: %w", found.Name(), ErrNotRegular)
	}
	// O_NONBLOCK: whoever holds a lease on the file is not waited for.
	file, err := os.OpenFile(proc(found), flags|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("opening %q: %w", found.Name(), err)
	}
	return file, info, nil
}

// readAll reads a file of at most limit bytes, however large it is said to be or grows meanwhile,
// and closes it.
func readAll(file *os.File, info fs.FileInfo, limit int64) ([]byte, error) {
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

// Open opens a regular file for reading; a link in its place is not followed.
func Open(path string) (*os.File, fs.FileInfo, error) {
	found, err := openPath(path)
	if err != nil {
		return nil, nil, err
	}
	return regular(found, os.O_RDONLY)
}

// Read reads a regular file of at most limit bytes; a link in its place is not followed.
func Read(path string, limit int64) ([]byte, error) {
	file, info, err := Open(path)
	if err != nil {
		return nil, err
	}
	return readAll(file, info, limit)
}

// ReadLinked is Read that follows links: for files of the node's administrator, such as
// /etc/resolv.conf.
func ReadLinked(path string, limit int64) ([]byte, error) {
	found, err := openat2(unix.AT_FDCWD, path, unix.O_PATH, 0)
	if err != nil {
		return nil, err
	}
	file, info, err := regular(found, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	return readAll(file, info, limit)
}

// ReadTail reads the last bytes of a regular file, at most so many; a link in its place is not
// followed.
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

// ReadBeneath reads a regular file of at most limit bytes in root, which no link leads out of root.
func ReadBeneath(root, sub string, limit int64) ([]byte, error) {
	return readBelow(root, sub, beneath|unix.RESOLVE_NO_XDEV, limit)
}

// ReadInRoot reads a regular file of at most limit bytes as a process whose root folder is root
// would: absolute links begin there again, and none leads out of it.
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
	file, info, err := regular(found, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	return readAll(file, info, limit)
}
