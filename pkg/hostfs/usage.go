package hostfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
)

// DiskUsage is how many bytes of the disk a file, or a folder with all that is in it, takes: what
// is allocated, so that holes are free, a file with several names once, nothing that is mounted
// below. Whatever goes away meanwhile does not count, and what is not there is 0. With an error, it
// is what could be measured.
func DiskUsage(ctx context.Context, path string) (int64, error) {
	var bytes int64
	err := walk(ctx, path, func(e entry) error {
		blocks := int64(e.stat.Blocks) * 512
		// each of its names comes by, and is charged its share: to remember them all could take any
		// memory
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
