package measure_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodeagent/nodeagent/pkg/node/measure"
	"github.com/nodeagent/nodeagent/pkg/node/pressure"
)

func write(t *testing.T, path string, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestSample(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "proc/meminfo"), "MemTotal: 1048576 kB\nMemAvailable: 1024 kB\n")
	write(t, filepath.Join(root, "proc/loadavg"), "0.1 0.2 0.3 1/100 77\n")
	write(t, filepath.Join(root, "proc/sys/kernel/pid_max"), "1000\n")
	s, err := measure.Machine{Root: root, Disk: root}.Sample()
	if err != nil {
		t.Fatal(err)
	}
	if m := s[pressure.MemoryAvailable]; m != (pressure.Measurement{Available: 1 << 20, Total: 1 << 30}) {
		t.Errorf("memory %+v", m)
	}
	if m := s[pressure.PIDAvailable]; m != (pressure.Measurement{Available: 900, Total: 1000}) {
		t.Errorf("processes %+v", m)
	}
	if m := s[pressure.NodeFSAvailable]; m.Available <= 0 || m.Available > m.Total {
		t.Errorf("disk %+v", m)
	}
	if _, err := (measure.Machine{Root: t.TempDir(), Disk: root}).Sample(); err == nil {
		t.Error("a machine without /proc was measured")
	}
}

// layers are the sizes of writable layers.
type layers map[string]int64

func (l layers) WritableBytes(_ context.Context, id string) (int64, error) {
	if n, ok := l[id]; ok {
		return n, nil
	}
	return 0, errors.New("no such container")
}

// TestStorage: layers, logs, volumes and files count; what cannot be measured is an error, and the
// rest counts.
func TestStorage(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"logs/0.log", "vol/a", "hosts"} {
		write(t, filepath.Join(dir, name), strings.Repeat("x", 8192))
	}
	f := measure.PodFiles{
		Containers: []measure.ContainerFiles{{Name: "c", ID: "1", Logs: filepath.Join(dir, "logs")}, {Name: "gone", ID: "2", Logs: filepath.Join(dir, "none")}},
		Volumes:    map[string]string{"v": filepath.Join(dir, "vol")},
		Files:      []string{filepath.Join(dir, "hosts")},
	}
	used, err := measure.Storage(t.Context(), layers{"1": 100}, f)
	if err == nil || !strings.Contains(err.Error(), `"gone"`) {
		t.Errorf("error %v does not name the container", err)
	}
	if used.Containers["c"] < 8292 || used.Volumes["v"] < 8192 || used.Files < 8192 {
		t.Errorf("used %+v", used)
	}
}
