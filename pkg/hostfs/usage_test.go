package hostfs_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/nodeagent/nodeagent/pkg/hostfs"
)

func TestDiskUsage(t *testing.T) {
	dir := t.TempDir()
	usage := func() int64 {
		t.Helper()
		bytes, err := hostfs.DiskUsage(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		return bytes
	}
	empty := usage()
	const size = 3 << 20
	if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	full := make([]byte, size)
	for i := range full {
		full[i] = byte(i) // no hole, and nothing that a file system would fold
	}
	file := filepath.Join(dir, "sub/file")
	if err := os.WriteFile(file, full, 0o600); err != nil {
		t.Fatal(err)
	}
	one := usage() - empty
	if one < size || one > size+size/4 {
		t.Errorf("a file of %d bytes takes %d", size, one)
	}
	if err := os.Link(file, filepath.Join(dir, "again")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if more := usage() - empty - one; more > 64<<10 {
		t.Errorf("other names of a file take %d bytes", more)
	}
	if bytes, err := hostfs.DiskUsage(t.Context(), filepath.Join(dir, "none")); bytes != 0 || err != nil {
		t.Errorf("a folder that is not there: %d, %v", bytes, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := hostfs.DiskUsage(ended, dir); err == nil {
		t.Error("it goes on though nobody waits for it")
	}
}
