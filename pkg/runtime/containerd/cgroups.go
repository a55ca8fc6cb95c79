package containerd

import (
	"bufio"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nodeagent/nodeagent/pkg/sleep"
)

// sigkilled is the exit code after SIGKILL, which the OOM killer sends.
const sigkilled = 137

// oomKilled reads the container's cgroup, which exists until the task is deleted, because the OOM
// event may come after the exit. If systemd has removed the cgroup already, it waits a moment for
// the event.
func (r *Runtime) oomKilled(ctx context.Context, c container, code int) bool {
	killed, known := cgroupOOM(c.cgroup)
	if known || code != sigkilled {
		return killed
	}
	for range 10 {
		if sleep.For(ctx, 10*time.Millisecond) != nil {
			return false
		}
		if have, ok := r.view.find(c.c.ID); ok && have.oom {
			return true
		}
	}
	return false
}

// cgroupOOM reads oom_kill from memory.events (v2) or memory.oom_control (v1).
func cgroupOOM(path string) (killed, known bool) {
	if path == "" {
		return false, false
	}
	path = cgroupDir(path)
	for _, file := range []string{"/sys/fs/cgroup" + path + "/memory.events", "/sys/fs/cgroup/memory" + path + "/memory.oom_control"} {
		f, err := os.Open(file)
		if err != nil {
			continue
		}
		defer func() { _ = f.Close() }()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if n, ok := strings.CutPrefix(lines.Text(), "oom_kill "); ok {
				return n != "0", true
			}
		}
	}
	return false, false
}

// cgroupDir returns the folder of an OCI cgroupsPath: a plain path, or systemd's slice:prefix:name.
func cgroupDir(path string) string {
	slice, unit, ok := strings.Cut(path, ":")
	if !ok {
		return filepath.Join("/", path)
	}
	prefix, name, _ := strings.Cut(unit, ":")
	dir, sofar := "/", ""
	for part := range strings.SplitSeq(strings.TrimSuffix(slice, ".slice"), "-") {
		if part == "" {
			continue // "-.slice" is the root
		}
		sofar += part
		dir = filepath.Join(dir, sofar+".slice")
		sofar += "-"
	}
	if strings.HasSuffix(name, ".slice") {
		return filepath.Join(dir, name)
	}
	return filepath.Join(dir, prefix+"-"+name+".scope")
}

// memoryUsage reads memory.current (v2) or memory.usage_in_bytes (v1).
func memoryUsage(path string) (bytes int64, known bool) {
	if path == "" {
		return 0, false
	}
	path = cgroupDir(path)
	for _, file := range []string{"/sys/fs/cgroup" + path + "/memory.current", "/sys/fs/cgroup/memory" + path + "/memory.usage_in_bytes"} {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		bytes, err = strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		return bytes, err == nil
	}
	return 0, false
}
