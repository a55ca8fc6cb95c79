package hostfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// BindBeneath bind-mounts the file or folder sub of root at target. The kernel opens the path once,
// and what was opened is mounted, so that a link that the pod changes meanwhile cannot lead out of
// root. A missing sub is created as folders with root's mode. An existing mount at target is
// replaced.
func BindBeneath(root, sub, target string) error {
	fd, err := openBeneath(root, sub)
	if err != nil {
		return err
	}
	defer closing(fd)
	info, err := fd.Stat()
	if err != nil {
		return fmt.Errorf("inspecting %q: %w", sub, err)
	}
	if err := Unmount(target); err != nil {
		return err
	}
	if err := mountPoint(target, info.IsDir()); err != nil {
		return err
	}
	if err := unix.Mount(proc(fd), target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("binding %q of %q at %q: %w", sub, root, target, err)
	}
	return nil
}

// mountPoint creates an empty file or folder to mount on, and removes one of the other type.
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
	return Touch(target, 0o640)
}

// openBeneath opens sub in the folder root, or root itself if that is a file, without leaving root.
// The kernel does so in one step. That fails when something is missing, and for links that are
// absolute or leave root and come back. Then openBeneath resolves the links as the kernel would on
// the host, and opens the result in the same strict way.
func openBeneath(root, sub string) (*os.File, error) {
	base, err := openat2(unix.AT_FDCWD, root, unix.O_PATH, 0)
	if err != nil {
		return nil, fmt.Errorf("opening volume: %w", err)
	}
	defer closing(base)
	fd, err := openat2(int(base.Fd()), sub, unix.O_PATH, beneath)
	if !errors.Is(err, unix.EXDEV) && !errors.Is(err, fs.ErrNotExist) {
		return fd, err
	}
	if sub, err = onHost(base, root, sub); err != nil {
		return nil, err
	}
	fd, err = openat2(int(base.Fd()), sub, unix.O_PATH, beneath)
	if !errors.Is(err, fs.ErrNotExist) {
		return fd, err
	}
	info, err := base.Stat()
	if err != nil {
		return nil, fmt.Errorf("inspecting the volume: %w", err)
	}
	return makeBeneath(base, sub, info.Mode())
}

// maxLinks is the limit of links on one path, as in the kernel.
const maxLinks = 40

// onHost resolves the links of sub as paths of the host, and returns the result as a path below
// root without links. It is an error if they lead out of root. Links outside of root are not read:
// they could lead to a file system that hangs.
func onHost(base *os.File, root, sub string) (string, error) {
	real, err := os.Readlink(proc(base))
	if err != nil {
		return "", fmt.Errorf("resolving volume: %w", err)
	}
	at, rest, links := real, sub, 0
	if filepath.IsAbs(sub) {
		at = "/"
	}
	for rest != "" {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		switch name {
		case "", ".":
			continue
		case "..":
			at = filepath.Dir(at)
			continue
		}
		at = filepath.Join(at, name)
		// root may itself be reached by links
		if given := filepath.Clean(root); at == given {
			at = real
		}
		below, inside := strings.CutPrefix(at, strings.TrimSuffix(real, "/")+"/")
		if !inside {
			continue // outside of the volume, where links are not followed
		}
		to, err := readLink(base, below)
		if err != nil {
			return "", err
		}
		if to == "" {
			continue
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("opening %q: %w", sub, unix.ELOOP)
		}
		at, rest = filepath.Dir(at), to+"/"+rest
		if filepath.IsAbs(to) {
			at = "/"
		}
	}
	if at == real {
		return ".", nil
	}
	below, inside := strings.CutPrefix(at, strings.TrimSuffix(real, "/")+"/")
	if !inside {
		return "", fmt.Errorf("opening %q: it leads out of the volume: %w", sub, unix.EXDEV)
	}
	return below, nil
}

// readLink reads the link at a path below base; "" if there is none.
func readLink(base *os.File, path string) (string, error) {
	found, err := openat2(int(base.Fd()), path, unix.O_PATH|unix.O_NOFOLLOW, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer closing(found)
	info, err := found.Stat()
	if err != nil || info.Mode()&fs.ModeSymlink == 0 {
		return "", err
	}
	buffer := make([]byte, 4096) // longer than any link
	n, err := unix.Readlinkat(int(found.Fd()), "", buffer)
	if err != nil {
		return "", fmt.Errorf("reading link %q: %w", path, err)
	}
	return string(buffer[:n]), nil
}

// makeBeneath creates the missing folders of sub below base, and opens the last.
func makeBeneath(base *os.File, sub string, mode fs.FileMode) (*os.File, error) {
	at, err := openat2(int(base.Fd()), ".", unix.O_PATH|unix.O_DIRECTORY, beneath)
	if err != nil {
		return nil, err
	}
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
	next, err := openat2(int(at.Fd()), name, unix.O_PATH, beneath)
	if !errors.Is(err, fs.ErrNotExist) {
		return next, err
	}
	err = unix.Mkdirat(int(at.Fd()), name, uint32(mode.Perm()))
	// EEXIST: another container has just created it
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("making folder %q: %w", name, err)
	}
	made, openErr := openat2(int(at.Fd()), name, unix.O_PATH, beneath)
	if openErr != nil || err != nil {
		return made, openErr
	}
	if err := chmod(made, mode&(fs.ModePerm|fs.ModeSetgid)); err != nil { // the umask removed bits
		closing(made)
		return nil, err
	}
	return made, nil
}
