package hostfs_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/pkg/hostfs"
	"github.com/nodeagent/nodeagent/pkg/hostfs/filetree"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func files(pairs ...string) filetree.Files {
	f := filetree.Files{}
	for i := 0; i < len(pairs); i += 2 {
		f[pairs[i]] = filetree.File{Data: []byte(pairs[i+1]), Mode: 0o644}
	}
	return f
}

// content is what a program sees below dir through links, without names that begin with "..".
func content(t *testing.T, dir string) string {
	t.Helper()
	var lines []string
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..") {
			continue
		}
		real, err := filepath.EvalSymlinks(filepath.Join(dir, e.Name()))
		must(t, err)
		must(t, filepath.WalkDir(real, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := os.ReadFile(path)
			lines = append(lines, e.Name()+strings.TrimPrefix(path, real)+"="+string(data))
			return err
		}))
	}
	return strings.Join(lines, " ")
}

func TestWriteTreeShowsAddsChangesAndDrops(t *testing.T) {
	dir := t.TempDir()
	for i, step := range []struct {
		files   filetree.Files
		changed bool
		want    string
	}{
		{files(), true, ""},
		{files(), false, ""},
		{files("a", "1", "d/e/f", "2"), true, "a=1 d/e/f=2"},
		{files("a", "1", "d/e/f", "2"), false, "a=1 d/e/f=2"},
		{files("a", "one", "d/g", "3"), true, "a=one d/g=3"},
		{files("d", "now a file"), true, "d=now a file"},
		{files(), true, ""},
	} {
		changed, err := hostfs.WriteTree(dir, hostfs.Tree{Files: step.files})
		if got := content(t, dir); err != nil || changed != step.changed || got != step.want {
			t.Fatalf("step %d: changed %v, error %v, shows %q, want %q", i, changed, err, got, step.want)
		}
		versions, err := filepath.Glob(filepath.Join(dir, "..v*"))
		if err != nil || len(versions) != 1 {
			t.Errorf("step %d: versions %v (%v)", i, versions, err)
		}
	}
}

// The next run removes what a killed run left behind.
func TestWriteTreeSweepsWhatACrashLeft(t *testing.T) {
	dir := t.TempDir()
	_, err := hostfs.WriteTree(dir, hostfs.Tree{Files: files("a", "1")})
	must(t, err)
	must(t, os.Mkdir(filepath.Join(dir, "..v-half"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "..v-half", "a"), []byte("ha"), 0o600))
	must(t, os.Symlink("..v-half", filepath.Join(dir, "..data_tmp")))
	must(t, os.Symlink("..data/gone", filepath.Join(dir, "gone")))
	_, err = hostfs.WriteTree(dir, hostfs.Tree{Files: files("a", "2")})
	must(t, err)
	if got := content(t, dir); got != "a=2" {
		t.Errorf("shows %q", got)
	}
	if _, err := os.Lstat(filepath.Join(dir, "..v-half")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the half version is still there: %v", err)
	}
}

// When Prepare fails, the old contents stay.
func TestWriteTreeKeepsTheOldWhenTheNewFails(t *testing.T) {
	dir := t.TempDir()
	_, err := hostfs.WriteTree(dir, hostfs.Tree{Files: files("a", "1")})
	must(t, err)
	if _, err := hostfs.WriteTree(dir, hostfs.Tree{Files: files("a", "2"), Prepare: func() error { return errors.New("no") }}); err == nil {
		t.Error("no error")
	}
	if got := content(t, dir); got != "a=1" {
		t.Errorf("shows %q", got)
	}
}

// A reader that holds the folder of one version open never sees files of two.
func TestWriteTreeChangesAllAtOnce(t *testing.T) {
	dir := t.TempDir()
	_, err := hostfs.WriteTree(dir, hostfs.Tree{Files: files("a", "0", "b", "0")})
	must(t, err)
	stop := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			version, err := os.Readlink(filepath.Join(dir, "..data"))
			if err != nil {
				t.Errorf("there was a moment without contents: %v", err)
				return
			}
			version = filepath.Join(dir, version)
			a, errA := os.ReadFile(filepath.Join(version, "a"))
			b, errB := os.ReadFile(filepath.Join(version, "b"))
			if errA == nil && errB == nil && string(a) != string(b) {
				t.Errorf("saw a=%s with b=%s", a, b)
				return
			}
		}
	})
	for i := range 200 {
		v := string(rune('0' + i%10))
		_, err := hostfs.WriteTree(dir, hostfs.Tree{Files: files("a", v, "b", v)})
		must(t, err)
	}
	close(stop)
	reader.Wait()
}

func TestBindBeneath(t *testing.T) {
	base := t.TempDir()
	root, outside := filepath.Join(base, "volume"), filepath.Join(base, "outside")
	must(t, os.MkdirAll(filepath.Join(root, "in"), 0o755))
	must(t, os.Chmod(root, os.ModeSetgid|0o770))
	must(t, os.MkdirAll(outside, 0o755))
	must(t, os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600))
	must(t, os.WriteFile(filepath.Join(root, "in", "file"), []byte("mine"), 0o644))
	must(t, os.Symlink("../outside", filepath.Join(root, "up")))
	must(t, os.Symlink(outside, filepath.Join(root, "absolute")))
	must(t, os.Symlink("in/file", filepath.Join(root, "link")))
	must(t, os.Symlink(root+"-beside", filepath.Join(root, "beside")))
	must(t, os.Symlink("self", filepath.Join(root, "self")))
	target := filepath.Join(base, "target")
	t.Cleanup(func() { _ = hostfs.Unmount(target) })
	for _, sub := range []string{"up", "absolute", "up/secret", "../outside", "/etc", "in/../../outside", "absolute/new", "beside/new", "self"} {
		if err := hostfs.BindBeneath(root, sub, target); err == nil {
			t.Errorf("%q led out of the volume", sub)
		}
		must(t, hostfs.Unmount(target))
	}
	if _, err := os.Lstat(filepath.Join(outside, "new")); err == nil {
		t.Error("a folder was made outside")
	}
	for _, sub := range []string{"in/file", "link"} {
		must(t, hostfs.BindBeneath(root, sub, target))
		if data, err := os.ReadFile(target); err != nil || string(data) != "mine" {
			t.Errorf("%q: %q, %v", sub, data, err)
		}
	}
	must(t, hostfs.BindBeneath(root, "new/deep", target)) // replaces the file
	info, err := os.Stat(filepath.Join(root, "new", "deep"))
	if err != nil || info.Mode() != os.ModeDir|os.ModeSetgid|0o770 {
		t.Errorf("the new folder: %v, %v", info.Mode(), err)
	}
	must(t, os.WriteFile(filepath.Join(target, "x"), nil, 0o600))
	if _, err := os.Stat(filepath.Join(root, "new", "deep", "x")); err != nil {
		t.Errorf("what is written at the target is not in the volume: %v", err)
	}
	if data, err := hostfs.ReadBeneath(root, "link", 10); err != nil || string(data) != "mine" {
		t.Errorf("reading: %q, %v", data, err)
	}
	for _, sub := range []string{"up/secret", "in"} {
		if _, err := hostfs.ReadBeneath(root, sub, 10); err == nil {
			t.Errorf("reading %q is no error", sub)
		}
	}
}

// Remove never deletes what is behind a mount.
func TestRemoveRefusesMounts(t *testing.T) {
	base := t.TempDir()
	data, dir := filepath.Join(base, "data"), filepath.Join(base, "dir", "deep")
	must(t, os.MkdirAll(data, 0o755))
	must(t, os.MkdirAll(dir, 0o755))
	must(t, os.WriteFile(filepath.Join(data, "precious"), nil, 0o600))
	must(t, unix.Mount(data, dir, "", unix.MS_BIND, ""))
	err := hostfs.Remove(filepath.Join(base, "dir"))
	if err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(filepath.Join(data, "precious")); err != nil {
		t.Fatalf("it is gone: %v", err)
	}
	must(t, hostfs.UnmountBelow(filepath.Join(base, "dir")))
	must(t, hostfs.Remove(filepath.Join(base, "dir")))
	if _, err := os.Stat(filepath.Join(data, "precious")); err != nil {
		t.Fatalf("it is gone: %v", err)
	}
	must(t, hostfs.Remove(filepath.Join(base, "dir")))
}

// A mount that a process has open is unmounted all the same.
func TestUnmountBusy(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "busy")
	must(t, hostfs.MountTmpfs(dir, hostfs.Tmpfs{Size: 1 << 20, Mode: 0o755}))
	must(t, hostfs.MountTmpfs(dir, hostfs.Tmpfs{Size: 1 << 20, Mode: 0o755})) // a second mount changes nothing
	file, err := os.Create(filepath.Join(dir, "open"))
	must(t, err)
	defer file.Close()
	must(t, hostfs.Unmount(dir))
	if mounted, err := hostfs.Mounted(dir); err != nil || mounted {
		t.Errorf("still mounted: %v, %v", mounted, err)
	}
	if _, err := file.WriteString("x"); err != nil {
		t.Errorf("the open file: %v", err)
	}
}
