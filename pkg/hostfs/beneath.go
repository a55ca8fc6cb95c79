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

// beneath lets links be followed as long as they stay in the folder that the walk began in (openat2(2)).
const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS

// BindBeneath binds the file or folder sub of root at target, so that a link which is changed meanwhile by the pod cannot
// lead out of root: the path is opened once by the kernel, and what was opened is bound. A missing sub is made as folders of
// root's mode. What is mounted at target already is replaced.
func BindBeneath(root, sub, target string) error {
	fd, err := openBeneath(root, sub)
	if err != nil {
		return err
	}
	defer closing(fd)
	info, err := fd.Stat()
	if err != nil {
		return fmt.Errorf("looking at %q: %w", sub, err)
	}
	if err := Unmount(target); err != nil {
		return err
	}
	if err := mountPoint(target, info.IsDir()); err != nil {
		return err
	}
	source := fmt.Sprintf("/proc/self/fd/%d", fd.Fd())
	if err := unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("binding %q of %q at %q: %w", sub, root, target, err)
	}
	return nil
}

// mountPoint makes an empty file or folder to mount on; one of the other sort makes way.
func mountPoint(target string, dir bool) error {
	if have, err := os.Lstat(target); err == nil {
		if have.IsDir() == dir {
			return nil
		}
		if err := os.Remove(target); err != nil {
			return fmt.Errorf("replacing mount point: %w", err)
		}
	}
	if dir {
		if err := os.MkdirAll(target, 0o750); err != nil {
			return fmt.Errorf("making mount point: %w", err)
		}
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return fmt.Errorf("making the folder of a mount point: %w", err)
	}
	file, err := os.OpenFile(target, os.O_CREATE|os.O_RDONLY|unix.O_NOFOLLOW, 0o640)
	if err != nil {
		return fmt.Errorf("making mount point: %w", err)
	}
	return file.Close()
}

// closing lets go of a descriptor that nothing was written through: its error has nothing to tell.
func closing(file *os.File) { _ = file.Close() }

func openBeneath(root, sub string) (*os.File, error) {
	base, err := os.OpenFile(root, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening volume: %w", err)
	}
	fd, err := openat2(base, sub)
	if !errors.Is(err, fs.ErrNotExist) {
		closing(base)
		return fd, err
	}
	info, err := os.Stat(root)
	if err != nil {
		closing(base)
		return nil, fmt.Errorf("looking at volume: %w", err)
	}
	return makeBeneath(base, sub, info.Mode())
}

// makeBeneath walks down from base and makes what is missing; it closes base.
func makeBeneath(base *os.File, sub string, mode fs.FileMode) (*os.File, error) {
	at := base
	for _, name := range strings.Split(filepath.Clean(sub), "/") {
		next, err := stepBeneath(at, name, mode)
		closing(at)
		if err != nil {
			return nil, err
		}
		at = next
	}
	return at, nil
}

func stepBeneath(at *os.File, name string, mode fs.FileMode) (*os.File, error) {
	next, err := openat2(at, name)
	if !errors.Is(err, fs.ErrNotExist) {
		return next, err
	}
	if err := unix.Mkdirat(int(at.Fd()), name, uint32(mode.Perm())); err != nil {
		return nil, fmt.Errorf("making folder %q: %w", name, err)
	}
	made, err := openat2(at, name)
	if err != nil {
		return nil, err
	}
	// By /proc: what was opened only as a path takes no fchmod. The mask took bits from mkdirat's.
	if err := chmod(fmt.Sprintf("/proc/self/fd/%d", made.Fd()), mode&(fs.ModePerm|fs.ModeSetgid)); err != nil {
		closing(made)
		return nil, err
	}
	return made, nil
}

func openat2(at *os.File, sub string) (*os.File, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: beneath}
	for {
		fd, err := unix.Openat2(int(at.Fd()), sub, &how)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("opening %q: %w", sub, err)
		}
		return os.NewFile(uintptr(fd), sub), nil
	}
}

// ReadBeneath reads a regular file of at most limit bytes in root, which no link leads out of root.
func ReadBeneath(root, sub string, limit int64) ([]byte, error) {
	base, err := os.OpenFile(root, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening volume: %w", err)
	}
	defer closing(base)
	found, err := openat2(base, sub)
	if err != nil {
		return nil, err
	}
	defer closing(found)
	info, err := found.Stat()
	if err != nil {
		return nil, fmt.Errorf("looking at %q: %w", sub, err)
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, fmt.Errorf("reading %q: it must be a file of at most %d bytes", sub, limit)
	}
	file, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", found.Fd()))
	if err != nil {
		return nil, fmt.Errorf("opening %q: %w", sub, err)
	}
	defer closing(file)
	return io.ReadAll(io.LimitReader(file, limit))
}
