package hostfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// DiskUsage is how many bytes of the disk a folder takes with all that is in it: what is allocated, a file with several names once,
// nothing that is mounted below. Whatever goes away meanwhile does not count, and a folder that is not there is 0.
func DiskUsage(ctx context.Context, dir string) (int64, error) {
	type inode struct{ dev, ino uint64 }
	seen := map[inode]bool{}
	var root *unix.Stat_t
	var bytes int64
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		var s unix.Stat_t
		switch err := unix.Lstat(path, &s); {
		case errors.Is(err, unix.ENOENT):
			return nil
		case err != nil:
			return fmt.Errorf("looking at %q: %w", path, err)
		}
		if root == nil {
			root = &s
		}
		if s.Dev != root.Dev {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if s.Nlink > 1 && !d.IsDir() {
			if seen[inode{s.Dev, s.Ino}] {
				return nil
			}
			seen[inode{s.Dev, s.Ino}] = true
		}
		bytes += s.Blocks * 512
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("measuring %q: %w", dir, err)
	}
	return bytes, nil
}
