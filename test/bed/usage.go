package bed

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Usage is what one process of a node uses.
type Usage struct {
	PID  int    // as seen from outside the node
	Name string // up to 15 bytes of the program's name, as the kernel has it
	RSS  int64  // resident memory, bytes
	Peak int64  // the most of it so far
	// PSS divides shared pages among their users; 0 if the kernel does not report it
	PSS int64
	// CPU is the CPU time since its start, including children that it has waited for.
	CPU time.Duration
}

// Usage lists every process on the node, including those of containers.
func (n *Node) Usage() ([]Usage, error) {
	own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", n.machine.holder.PID))
	if err != nil {
		return nil, fmt.Errorf("looking at node %q: %w", n.Name, err)
	}
	// Containers have their own PID namespaces below the node's; their processes descend from the
	// node's process 1.
	parents, err := processTree()
	if err != nil {
		return nil, err
	}
	var out []Usage
	for pid := range parents {
		ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
		if err != nil || ns != own && !below(parents, pid, n.machine.holder.PID) {
			continue
		}
		if u, ok := usage(pid); ok {
			out = append(out, u)
		}
	}
	return out, nil
}

// processTree maps each process to its parent.
func processTree() (map[int]int, error) {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, fmt.Errorf("listing processes: %w", err)
	}
	out := map[int]int{}
	for _, f := range files {
		content, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended
		}
		fields := strings.Fields(string(content[strings.LastIndexByte(string(content), ')'):]))
		pid, err1 := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		parent, err2 := strconv.Atoi(fields[2])
		if err1 == nil && err2 == nil {
			out[pid] = parent
		}
	}
	return out, nil
}

// below reports whether a process descends from another.
func below(parents map[int]int, pid, ancestor int) bool {
	for pid > 1 {
		if pid == ancestor {
			return true
		}
		pid = parents[pid]
	}
	return false
}

func usage(pid int) (Usage, bool) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return Usage{}, false
	}
	u := Usage{PID: pid}
	for line := range strings.Lines(string(status)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
		switch key {
		case "Name":
			u.Name = value
		case "VmRSS", "VmHWM":
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(value, "kB")), 10, 64)
			if err != nil {
				return Usage{}, false
			}
			if key == "VmHWM" {
				u.Peak = kib << 10
			} else {
				u.RSS = kib << 10
			}
		}
	}
	u.PSS = proportional(pid)
	u.CPU = cpu(pid)
	return u, true
}

// proportional reads the PSS of smaps_rollup (proc(5)).
func proportional(pid int) int64 {
	rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(rollup)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "Pss:" {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				return 0
			}
			return kib << 10
		}
	}
	return 0
}

// tick is the unit of CPU times in /proc, USER_HZ, which is 100 on every architecture that Go
// knows.
const tick = 10 * time.Millisecond

// cpu sums utime, stime, cutime and cstime of stat (proc(5)).
func cpu(pid int) time.Duration {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(content[strings.LastIndexByte(string(content), ')')+1:]))
	if len(fields) < 15 {
		return 0
	}
	var sum time.Duration
	for _, f := range fields[11:15] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0
		}
		sum += time.Duration(n) * tick
	}
	return sum
}
