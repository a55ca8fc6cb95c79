package hostfs_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/pkg/hostfs"
)

// huge is larger than any machine's memory; as a hole it uses no disk.
const huge = 4096 << 30

// within fails the test when f does not return, or uses more memory than a small file needs.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s: it hangs", what)
	}
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > 64<<20 {
		t.Errorf("%s: it took %d bytes of memory", what, took)
	}
}

// hostile makes everything that a container may put in a file's place.
func hostile(t *testing.T, dir, outside string) map[string]string {
	t.Helper()
	paths := map[string]string{}
	put := func(name string, make func(path string) error) {
		paths[name] = filepath.Join(dir, name)
		must(t, make(paths[name]))
	}
	put("hole", func(p string) error {
		return errors.Join(os.WriteFile(p, nil, 0o600), os.Truncate(p, huge))
	})
	put("fifo", func(p string) error { return unix.Mkfifo(p, 0o600) })
	// /dev/tty
	put("device", func(p string) error { return unix.Mknod(p, unix.S_IFCHR|0o600, int(unix.Mkdev(5, 0))) })
	put("link", func(p string) error { return os.Symlink(outside, p) })
	put("socket", func(p string) error { return unix.Mknod(p, unix.S_IFSOCK|0o600, 0) })
	put("folder", func(p string) error { return os.Mkdir(p, 0o700) })
	return paths
}

// Reading never waits for, follows, or completely reads what is in a file's place.
func TestReadsAreBounded(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(t.TempDir(), "secret")
	must(t, os.WriteFile(outside, []byte("secret"), 0o600))
	for name, path := range hostile(t, dir, outside) {
		within(t, name, func() {
			if text, err := hostfs.Read(path, 1<<10); err == nil {
				t.Errorf("%s: read %q", name, text)
			}
			if text, err := hostfs.ReadBeneath(dir, name, 1<<10); err == nil {
				t.Errorf("%s: read %q in a volume", name, text)
			}
			if text, err := hostfs.ReadInRoot(dir, name, 1<<10); err == nil {
				t.Errorf("%s: read %q in an image", name, text)
			}
			text, err := hostfs.ReadTail(path, 1<<10)
			if name == "hole" && (err != nil || len(text) != 1<<10) || name != "hole" && err == nil {
				t.Errorf("%s: the end is %d bytes, %v", name, len(text), err)
			}
		})
	}
	if text, err := hostfs.Read(outside, 6); err != nil || string(text) != "secret" {
		t.Errorf("a file: %q, %v", text, err)
	}
	if _, err := hostfs.Read(outside, 5); !errors.Is(err, hostfs.ErrTooLong) {
		t.Errorf("a longer file: %v", err)
	}
	if text, err := hostfs.ReadLinked(filepath.Join(dir, "link"), 10); err != nil || string(text) != "secret" {
		t.Errorf("a link of the administrator's: %q, %v", text, err)
	}
}

// Write replaces whatever is in a file's place, and writes to nothing else.
func TestWritePutsRight(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(t.TempDir(), "canary")
	must(t, os.WriteFile(outside, []byte("canary"), 0o600))
	for name, path := range hostile(t, dir, outside) {
		if name == "folder" {
			continue
		}
		within(t, name, func() {
			if err := hostfs.Write(path, []byte("text"), 0o644); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
		info, err := os.Lstat(path)
		if err != nil || info.Mode() != 0o644 {
			t.Errorf("%s: afterwards it is %v, %v", name, info.Mode(), err)
		}
		if text, err := os.ReadFile(path); err != nil || string(text) != "text" {
			t.Errorf("%s: afterwards it has %q, %v", name, text, err)
		}
	}
	info, err := os.Stat(outside)
	if text, readErr := os.ReadFile(outside); err != nil || readErr != nil || string(text) != "canary" || info.Mode() != 0o600 {
		t.Errorf("the file that a link led to: %q, %v", text, info.Mode())
	}
}

// Containers have the file mounted, so Write changes it in place; a file with a lease on it is
// replaced without waiting.
func TestWriteInPlace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hosts")
	must(t, hostfs.Write(path, []byte("a longer text"), 0o644))
	file, err := os.Open(path)
	must(t, err)
	defer file.Close()
	must(t, hostfs.Write(path, []byte("short"), 0o644))
	text := make([]byte, 20)
	if n, _ := file.ReadAt(text, 0); string(text[:n]) != "short" {
		t.Errorf("who has the file sees %q", text[:n])
	}
	if _, err := unix.FcntlInt(file.Fd(), unix.F_SETLEASE, unix.F_RDLCK); err != nil {
		t.Fatal(err)
	}
	within(t, "a lease", func() { must(t, hostfs.Write(path, []byte("new"), 0o644)) })
	if text, err := os.ReadFile(path); err != nil || string(text) != "new" {
		t.Errorf("beside a lease: %q, %v", text, err)
	}
}

// The root folder is a link, as when /var/lib/kubelet is on a data disk: the kernel's mount table
// has resolved paths.
func TestRemoveByALinkedFolder(t *testing.T) {
	dir := t.TempDir()
	disk, link, data := filepath.Join(dir, "disk"), filepath.Join(dir, "kubelet"), filepath.Join(dir, "data")
	must(t, os.MkdirAll(filepath.Join(disk, "pods/uid"), 0o755))
	must(t, os.MkdirAll(filepath.Join(data, "db"), 0o755))
	must(t, os.WriteFile(filepath.Join(data, "db/precious"), nil, 0o600))
	must(t, os.Symlink(disk, link))
	pod := filepath.Join(link, "pods/uid")
	must(t, hostfs.BindBeneath(data, "db", filepath.Join(pod, "volume-subpaths/vol/app/0")))
	if err := hostfs.Remove(pod); err == nil {
		t.Error("a folder was removed below which something is mounted")
	}
	must(t, hostfs.UnmountBelow(pod))
	must(t, hostfs.Remove(pod))
	if _, err := os.Lstat(filepath.Join(disk, "pods/uid")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder is still there: %v", err)
	}
	if _, err := os.Stat(filepath.Join(data, "db/precious")); err != nil {
		t.Errorf("the host's data is gone: %v", err)
	}
}

// Somebody mounts below a folder during its removal: nothing behind the mount is deleted.
func TestRemoveBesideMounts(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	must(t, os.MkdirAll(filepath.Join(data, "sub"), 0o755))
	for _, name := range []string{"precious", "sub/precious"} {
		must(t, os.WriteFile(filepath.Join(data, name), nil, 0o600))
	}
	for round := range 10 {
		pod := filepath.Join(dir, "pod")
		for i := range 20 {
			must(t, os.MkdirAll(filepath.Join(pod, fmt.Sprint(i), "a/b"), 0o755))
		}
		var racer sync.WaitGroup
		stop := make(chan struct{})
		racer.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					_ = unix.Mount(data, filepath.Join(pod, fmt.Sprint(i%20), "a/b"), "", unix.MS_BIND, "")
				}
			}
		})
		_ = hostfs.Remove(pod)
		close(stop)
		racer.Wait()
		must(t, hostfs.UnmountBelow(pod))
		must(t, hostfs.Remove(pod))
		for _, name := range []string{"precious", "sub/precious"} {
			if _, err := os.Stat(filepath.Join(data, name)); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
		}
	}
}

// deep makes folders within folders, beyond what a path or the descriptors of a process could name.
func deep(t *testing.T, dir string, levels int) {
	t.Helper()
	at, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	must(t, err)
	for range levels {
		must(t, unix.Mkdirat(at, "d", 0o755))
		next, err := unix.Openat(at, "d", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		must(t, err)
		must(t, unix.Close(at))
		at = next
	}
	must(t, unix.Close(at))
}

func TestDeepFolders(t *testing.T) {
	var limit unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	low := limit
	low.Cur = 2048
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &low))
	defer func() { must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)) }()
	dir := filepath.Join(t.TempDir(), "volume")
	must(t, os.Mkdir(dir, 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "file"), make([]byte, 1<<20), 0o600))
	deep(t, dir, 5_000)
	bytes, err := hostfs.DiskUsage(t.Context(), dir)
	if err == nil || bytes < 1<<20 {
		t.Errorf("measured %d bytes, %v", bytes, err)
	}
	must(t, hostfs.Remove(dir))
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}

// While a container swaps a folder for a link and back, nothing behind the link changes owner, is
// measured or removed.
func TestWalksFollowNobody(t *testing.T) {
	dir := t.TempDir()
	volume, outside := filepath.Join(dir, "volume"), filepath.Join(dir, "outside")
	must(t, os.Mkdir(volume, 0o755))
	must(t, os.MkdirAll(filepath.Join(outside, "x"), 0o755))
	canary := filepath.Join(outside, "x/canary")
	must(t, os.WriteFile(canary, make([]byte, 64<<20), 0o600))
	folder, link := filepath.Join(volume, "x"), filepath.Join(volume, "y")
	must(t, os.Mkdir(folder, 0o755))
	must(t, os.WriteFile(filepath.Join(folder, "canary"), nil, 0o600))
	must(t, os.Symlink(filepath.Join(outside, "x"), link))
	stop := make(chan struct{})
	var racer sync.WaitGroup
	racer.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, folder, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE)
			}
		}
	})
	until := time.Now().Add(2 * time.Second)
	for time.Now().Before(until) {
		must(t, hostfs.SetGroup(volume, 4242, false))
		if bytes, err := hostfs.DiskUsage(context.Background(), volume); err != nil || bytes > 1<<20 {
			t.Fatalf("measured %d bytes, %v", bytes, err)
		}
	}
	close(stop)
	racer.Wait()
	for _, path := range []string{canary, filepath.Join(outside, "x"), outside} {
		info, err := os.Stat(path)
		must(t, err)
		if gid := info.Sys().(*syscall.Stat_t).Gid; gid == 4242 {
			t.Errorf("%q was given away", path)
		}
	}
	must(t, hostfs.Remove(volume))
	if _, err := os.Stat(canary); err != nil {
		t.Errorf("what the link led to: %v", err)
	}
}

// What is mounted below a volume belongs to another volume: its group does not change.
func TestSetGroupStaysInItsMount(t *testing.T) {
	dir := t.TempDir()
	volume, other := filepath.Join(dir, "volume"), filepath.Join(dir, "other")
	must(t, os.MkdirAll(filepath.Join(volume, "mnt"), 0o755))
	must(t, os.MkdirAll(filepath.Join(other, "in"), 0o700))
	// of the same device
	must(t, unix.Mount(other, filepath.Join(volume, "mnt"), "", unix.MS_BIND, ""))
	t.Cleanup(func() { _ = hostfs.UnmountBelow(volume) })
	must(t, hostfs.SetGroup(volume, 4242, false))
	for path, want := range map[string]uint32{volume: 4242, other: 0, filepath.Join(other, "in"): 0} {
		info, err := os.Stat(path)
		must(t, err)
		if gid := info.Sys().(*syscall.Stat_t).Gid; gid != want {
			t.Errorf("%q belongs to group %d", path, gid)
		}
	}
}

// A mount in a folder that has become a link meanwhile is not unmounted behind the link.
func TestUnmountFollowsNobody(t *testing.T) {
	dir := t.TempDir()
	pod, outside := filepath.Join(dir, "pod"), filepath.Join(dir, "outside")
	for _, d := range []string{filepath.Join(pod, "a/mnt"), filepath.Join(outside, "mnt")} {
		must(t, os.MkdirAll(d, 0o755))
		must(t, hostfs.MountTmpfs(d, hostfs.Tmpfs{Size: 1 << 20, Mode: 0o755}))
	}
	stop := make(chan struct{})
	var racer sync.WaitGroup
	must(t, os.Symlink(outside, filepath.Join(pod, "b")))
	racer.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, filepath.Join(pod, "a"), unix.AT_FDCWD, filepath.Join(pod, "b"), unix.RENAME_EXCHANGE)
			}
		}
	})
	for range 50 {
		_ = hostfs.UnmountBelow(pod)
		if mounted, err := hostfs.Mounted(filepath.Join(outside, "mnt")); err != nil || !mounted {
			t.Errorf("a mount outside of the pod was taken off (%v)", err)
			break
		}
	}
	close(stop)
	racer.Wait()
	must(t, hostfs.UnmountBelow(pod))
	must(t, hostfs.UnmountBelow(outside))
}

// Like kubelet, hostfs resolves links as on the host: a link may be absolute, or leave the volume
// and come back, as long as it ends in the volume.
func TestBindBeneathByAbsoluteLinks(t *testing.T) {
	dir := t.TempDir()
	real := filepath.Join(dir, "real")
	alias := filepath.Join(dir, "alias") // as /var/run is one of /run
	must(t, os.MkdirAll(filepath.Join(real, "data/v2"), 0o755))
	must(t, os.Symlink(real, alias))
	must(t, os.WriteFile(filepath.Join(real, "data/v2/file"), []byte("mine"), 0o644))
	for name, to := range map[string]string{
		"absolute": filepath.Join(real, "data/v2"),
		"alias":    filepath.Join(alias, "data/v2"),
		"chain":    filepath.Join(real, "absolute"),
		"around":   "../real/data/v2",
		"whole":    real,
		"deep":     filepath.Join(real, "data/new/folder"),
	} {
		must(t, os.Symlink(to, filepath.Join(real, name)))
	}
	// within the volume, but out of its own folder
	must(t, os.Symlink("../data/v2", filepath.Join(real, "data/up")))
	target := filepath.Join(dir, "target")
	t.Cleanup(func() { _ = hostfs.Unmount(target) })
	for sub, file := range map[string]string{
		"absolute": "file", "alias": "file", "chain": "file", "around": "file", "whole": "data/v2/file", "whole/absolute": "file",
		"absolute/../v2": "file",
	} {
		must(t, hostfs.BindBeneath(alias, sub, target))
		if data, err := os.ReadFile(filepath.Join(target, file)); err != nil || string(data) != "mine" {
			t.Errorf("%q: %q, %v", sub, data, err)
		}
	}
	for sub, made := range map[string]string{"absolute/fresh/a": "data/v2/fresh/a", "data/up/b": "data/v2/b", "deep": "data/new/folder"} {
		must(t, hostfs.BindBeneath(alias, sub, target))
		if _, err := os.Stat(filepath.Join(real, made)); err != nil {
			t.Errorf("%q was not made: %v", sub, err)
		}
	}
}

// Containers that start together may begin with the same missing folder.
func TestBindBeneathTogether(t *testing.T) {
	for range 25 {
		dir := t.TempDir()
		root := filepath.Join(dir, "volume")
		must(t, os.Mkdir(root, 0o777))
		must(t, os.Chmod(root, 0o777))
		var all sync.WaitGroup
		errs := make([]error, 4)
		for i := range errs {
			all.Go(func() { errs[i] = hostfs.BindBeneath(root, "a/b", filepath.Join(dir, "targets", fmt.Sprint(i))) })
		}
		all.Wait()
		must(t, errors.Join(errs...))
		must(t, hostfs.UnmountBelow(dir))
		if info, err := os.Stat(filepath.Join(root, "a/b")); err != nil || info.Mode().Perm() != 0o777 {
			t.Fatalf("made as %v, %v", info.Mode(), err)
		}
	}
}

func TestMakeFolder(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "disk"), 0o755))
	must(t, os.Symlink("disk", filepath.Join(dir, "link")))
	must(t, os.Symlink("gone", filepath.Join(dir, "dangling")))
	must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	for path, made := range map[string]string{"new/deep": "new/deep", "link": "disk", "link/sub": "disk/sub"} {
		must(t, hostfs.MakeFolder(filepath.Join(dir, path), 0o750))
		if info, err := os.Lstat(filepath.Join(dir, made)); err != nil || !info.IsDir() {
			t.Errorf("%q: %v", path, err)
		}
	}
	for path, want := range map[string]string{"dangling": "does not exist", "file": "not a directory"} {
		if err := hostfs.MakeFolder(filepath.Join(dir, path), 0o750); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", path, err)
		}
	}
}
