package hostfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Write makes the file at path hold exactly data, with that mode. Containers may have the file
// mounted and write to it. So Write changes it in place, reads at most len(data) bytes of it, and
// replaces it if it cannot be opened for writing or is no longer a regular file.
func Write(path string, data []byte, mode fs.FileMode) error {
	found, err := openPath(path)
	if errors.Is(err, fs.ErrNotExist) {
		return replace(path, data, mode)
	}
	if err != nil {
		return err
	}
	file, info, err := regular(found, os.O_RDWR)
	if err != nil {
		return replace(path, data, mode)
	}
	defer closing(file)
	if !holds(file, info.Size(), data) {
		// Truncate last, so that a concurrent reader never finds the file empty.
		if _, err := file.WriteAt(data, 0); err != nil {
			return fmt.Errorf("writing %q: %w", path, err)
		}
		if err := file.Truncate(int64(len(data))); err != nil {
			return fmt.Errorf("writing %q: %w", path, err)
		}
	}
	if info.Mode() != mode {
		return fchmod(file, mode)
	}
	return nil
}

func holds(file *os.File, size int64, data []byte) bool {
	if size != int64(len(data)) {
		return false
	}
	have := make([]byte, len(data))
	_, err := io.ReadFull(io.NewSectionReader(file, 0, size), have)
	return err == nil && bytes.Equal(have, data)
}

// replace atomically replaces whatever is at path with a new file.
func replace(path string, data []byte, mode fs.FileMode) error {
	fresh := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing %q: %w", fresh, err)
	}
	file, err := os.OpenFile(fresh, os.O_CREATE|os.O_EXCL|os.O_WRONLY|unix.O_NOFOLLOW, mode.Perm())
	if err != nil {
		return fmt.Errorf("making %q: %w", fresh, err)
	}
	_, err = file.Write(data)
	err = errors.Join(err, fchmod(file, mode), file.Close()) // the umask removed bits
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("writing %q: %w", path, err), os.Remove(fresh))
	}
	return nil
}

// Touch creates an empty file with that mode. A regular file that exists already gets the mode.
func Touch(path string, mode fs.FileMode) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, mode.Perm())
	if err != nil {
		return fmt.Errorf("making %q: %w", path, err)
	}
	defer closing(file)
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("making %q: %w", path, err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("making %q: %w", path, ErrNotRegular)
	}
	if info.Mode() == mode {
		return nil
	}
	return fchmod(file, mode)
}

func fchmod(file *os.File, mode fs.FileMode) error {
	if err := file.Chmod(mode); err != nil {
		return fmt.Errorf("setting the mode of %q: %w", file.Name(), err)
	}
	return nil
}

// Chmod sets the mode of a file or folder; it refuses a link.
func Chmod(path string, mode fs.FileMode) error {
	found, err := openPath(path)
	if err != nil {
		return err
	}
	defer closing(found)
	return chmod(found, mode)
}

// chmod sets the mode of what a descriptor refers to, by way of /proc: an O_PATH descriptor does
// not allow fchmod.
func chmod(found *os.File, mode fs.FileMode) error {
	info, err := found.Stat()
	if err == nil && info.Mode()&fs.ModeSymlink != 0 {
		err = unix.ELOOP
	}
	if err == nil {
		err = os.Chmod(proc(found), mode)
	}
	if err != nil {
		return fmt.Errorf("setting the mode of %q: %w", found.Name(), err)
	}
	return nil
}
