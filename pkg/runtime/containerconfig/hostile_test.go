package containerconfig_test

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/pkg/hostfs"
	"github.com/nodeagent/nodeagent/pkg/runtime/containerconfig"
)

// A container makes its /etc/hosts larger than the machine's memory and exits: the next start takes
// no memory and restores the file.
func TestPodFilesAreHostile(t *testing.T) {
	b := newBed(t)
	pod := podFrom(t, `
metadata: {name: web, namespace: shop, uid: u1}
spec: {containers: [{name: app}]}
`)
	c, err := b.start(t, pod, "app", 0)
	must(t, err)
	dir := filepath.Join(b.root, "pods", "u1")
	canary := filepath.Join(b.root, "canary")
	must(t, os.WriteFile(canary, []byte("canary"), 0o600))
	for attempt, do := range []func(path string) error{
		func(path string) error { return os.Truncate(path, 4096<<30) },
		func(path string) error { return os.Chmod(path, 0) },
		func(path string) error {
			must(t, os.Remove(path))
			return unix.Mkfifo(path, 0o666)
		},
		func(path string) error {
			must(t, os.Remove(path))
			return os.Symlink(canary, path)
		},
	} {
		files := []string{filepath.Join(dir, "etc-hosts"), filepath.Join(dir, "etc-hostname"), filepath.Join(dir, "etc-resolv.conf")}
		for _, path := range files {
			must(t, do(path))
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := b.start(t, pod, "app", attempt+1); err != nil {
			t.Fatalf("attempt %d: %v", attempt, err)
		}
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; took > 16<<20 {
			t.Errorf("attempt %d took %d bytes of memory", attempt, took)
		}
		for _, path := range files {
			info, err := os.Lstat(path)
			must(t, err)
			if info.Mode() != 0o644 || info.Size() > 1<<10 {
				t.Errorf("attempt %d: %q is %v and has %d bytes", attempt, path, info.Mode(), info.Size())
			}
		}
		if text, err := os.ReadFile(files[0]); err != nil || !strings.Contains(string(text), "10.244.0.7\tweb") {
			t.Errorf("attempt %d: hosts %q, %v", attempt, text, err)
		}
	}
	info, err := os.Stat(canary)
	must(t, err)
	if text, err := os.ReadFile(canary); err != nil || string(text) != "canary" || info.Mode() != 0o600 {
		t.Errorf("what a link led to: %q, %v, %v", text, info.Mode(), err)
	}
	if _, err := os.Lstat(c.MessagePath); err == nil {
		t.Error("the termination message of an attempt that nobody knows any more is still there")
	}
}

// What containers write to those files counts as the pod's disk usage; holes do not.
func TestWritableFilesCount(t *testing.T) {
	b := newBed(t)
	pod := podFrom(t, `
metadata: {name: web, namespace: shop, uid: u1}
spec: {containers: [{name: app}]}
`)
	c, err := b.start(t, pod, "app", 0)
	must(t, err)
	used := func() (sum int64) {
		for _, path := range containerconfig.Writable(b.root, pod.UID) {
			bytes, err := hostfs.DiskUsage(context.Background(), path)
			must(t, err)
			sum += bytes
		}
		return sum
	}
	before := used()
	must(t, os.Truncate(filepath.Join(b.root, "pods/u1/etc-hostname"), 4096<<30))
	if more := used() - before; more > 64<<10 {
		t.Errorf("a hole takes %d bytes", more)
	}
	for i, path := range []string{filepath.Join(b.root, "pods/u1/etc-hosts"), filepath.Join(b.root, "pods/u1/etc-resolv.conf"), c.MessagePath} {
		before := used()
		must(t, os.WriteFile(path, []byte(strings.Repeat("x", 1<<20)), 0o600))
		if more := used() - before; more < 1<<20-8<<10 {
			t.Errorf("file %d: only %d bytes more", i, more)
		}
	}
}
