package hostfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
)

// DiskUsage is how many bytes of the disk a file or a folder with its contents uses. It counts
// allocated blocks, so that holes are free, and a file with several names once. It does not count
// what is mounted below or disappears meanwhile. A path that does not exist uses 0. With an error,
// the result is what could be measured.
func DiskUsage(ctx context.Context, path string) (int64, error) {
	var bytes int64
	err := walk(ctx, path, func(e entry) error {
		blocks := int64(e.stat.Blocks) * 512
		// Each name of a file counts its share: remembering all files could take any amount of
		// memory.
		if !e.dir() {
			blocks /= int64(max(1, e.stat.Nlink))
		}
		bytes += blocks
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return bytes, fmt.Errorf("measuring %q: %w", path, err)
	}
	return bytes, nil
}
