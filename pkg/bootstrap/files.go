package bootstrap

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/nodeagent/nodeagent/pkg/hostfs"
)

// writeFile replaces a file atomically. It makes missing folders with mode 0755, or 0700 for a
// file that only its owner may read.
func writeFile(path string, data []byte, mode fs.FileMode) error {
	if err := makeDir(filepath.Dir(path), mode); err != nil {
		return err
	}
	if err := hostfs.WriteFile(path, data, mode); err != nil {
		return unwritable(err)
	}
	return nil
}

func makeDir(dir string, mode fs.FileMode) error {
	dirMode := fs.FileMode(0o755)
	if mode&0o077 == 0 {
		dirMode = 0o700
	}
	if _, err := os.Stat(dir); err == nil {
		// an existing folder keeps its mode: /var/lib/kubelet and /etc/kubernetes are shared
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return unwritable(fmt.Errorf("making folder %q: %w", dir, err))
	}
	if err := os.Mkdir(dir, dirMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return unwritable(fmt.Errorf("making folder %q: %w", dir, err))
	}
	return nil
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
	return hostfs.SyncDir(filepath.Dir(path))
}

// readOptional returns nil for a file that does not exist.
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

// unwritable is an error of the disk.
func unwritable(err error) error {
	return &Error{Code: CodeHost, Err: err, Next: "make room on that disk, or make it writable (df -h, findmnt); then run the same command again"}
}
