package logdir_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/nodeagent/nodeagent/pkg/runtime/logpump/logdir"
)

// TestOpenFollowsNobody: a pod that mounts the log folder can neither lead reader or writer to
// another file nor block them.
func TestOpenFollowsNobody(t *testing.T) {
	dir := t.TempDir()
	secret, link, fifo, folder, plain := filepath.Join(dir, "secret"), filepath.Join(dir, "0.log"), filepath.Join(dir, "1.log"), filepath.Join(dir, "2.log"), filepath.Join(dir, "3.log")
	for _, err := range []error{
		os.WriteFile(secret, []byte("secret"), 0o600), os.Symlink(secret, link), syscall.Mkfifo(fifo, 0o600), os.Mkdir(folder, 0o700), os.WriteFile(plain, nil, 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, flags := range []int{os.O_RDONLY, os.O_RDWR | os.O_APPEND | os.O_CREATE, os.O_WRONLY | os.O_CREATE} {
		for _, path := range []string{link, fifo, folder} {
			f, err := logdir.OpenFile(path, flags, 0o640)
			if err == nil || f != nil || !errors.Is(err, logdir.ErrNotRegular) && !errors.Is(err, syscall.EISDIR) && !errors.Is(err, syscall.EEXIST) {
				t.Errorf("%s with flags %#x: %v, %v", filepath.Base(path), flags, f, err)
			}
		}
		f, err := logdir.OpenFile(plain, flags, 0o640)
		if err != nil {
			t.Fatalf("a plain file with flags %#x: %v", flags, err)
		}
		_ = f.Close()
	}
	if text, err := os.ReadFile(secret); err != nil || string(text) != "secret" {
		t.Errorf("the file that the link names is %q now, %v", text, err)
	}
}
