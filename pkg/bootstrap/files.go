package bootstrap

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// writeFile replaces a file whole or not at all: a temporary file beside it, fsync, rename, fsync of the folder.
// Missing folders are made with 0755, those of secrets (mode without group and others) with 0700.
func writeFile(path string, data []byte, mode fs.FileMode) (err error) {
	dir := filepath.Dir(path)
	if err := makeDir(dir, mode); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return unwritable(fmt.Errorf("writing %q: %w", path, err))
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
			err = unwritable(fmt.Errorf("writing %q: %w", path, err))
		}
	}()
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

func makeDir(dir string, mode fs.FileMode) error {
	dirMode := fs.FileMode(0o755)
	if mode&0o077 == 0 {
		dirMode = 0o700
	}
	if _, err := os.Stat(dir); err == nil {
		return nil // a folder that is there keeps its mode: /var/lib/kubelet and /etc/kubernetes are shared
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return unwritable(fmt.Errorf("making folder %q: %w", dir, err))
	}
	if err := os.Mkdir(dir, dirMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return unwritable(fmt.Errorf("making folder %q: %w", dir, err))
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	return d.Sync()
}

// link points a symbolic link at a file beside it, replacing the link in one step.
func link(target, path string) error {
	temp := path + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return unwritable(fmt.Errorf("linking %q: %w", path, err))
	}
	if err := os.Symlink(target, temp); err != nil {
		return unwritable(fmt.Errorf("linking %q: %w", path, err))
	}
	if err := os.Rename(temp, path); err != nil {
		return unwritable(fmt.Errorf("linking %q: %w", path, err))
	}
	return syncDir(filepath.Dir(path))
}

// readOptional returns nil for a file that is not there.
func readOptional(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return unwritable(fmt.Errorf("removing: %w", err))
	}
	return nil
}

// unwritable is the disk's fault: the machine is not fit.
func unwritable(err error) error {
	return &Error{Code: CodeHost, Err: err, Next: "make room on that disk, or make it writable (df -h, findmnt); then run the same command again"}
}
