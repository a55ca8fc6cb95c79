package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/cgroups"
	corev1 "k8s.io/api/core/v1"
)

// ResizePod changes the limits of a running pod's group to those that the pod has now: with widen
// only the limits that grow, which comes before its containers are given more; without, all of
// them, which comes after its containers were given less. A memory limit below what the pod uses is
// refused: with cgroup v2 the kernel would begin to kill.
func (t *Tree) ResizePod(_ context.Context, pod *corev1.Pod, widen bool) error {
	if !t.PerQOS {
		return nil
	}
	n, wanted := t.Pod(pod), PodLimits(pod, t.config.Enforce)
	now, err := t.read(n)
	if err != nil {
		return fmt.Errorf("reading the limits of cgroup %q: %w", t.Dir(n), err)
	}
	if widen {
		return t.write(n, growing(now.Limits, wanted))
	}
	if wanted.Memory > 0 && (now.Memory == 0 || wanted.Memory < now.Memory) && now.used >= wanted.Memory {
		return fmt.Errorf("cannot decrease memory limits: attempting to set pod memory limit (%d) below current usage (%d)", wanted.Memory, now.used)
	}
	return t.write(n, wanted)
}

// usage is what a group is limited to and uses; Limits has no more than quota, period and memory.
type usage struct {
	Limits
	used int64 // bytes of memory
}

// read reads a group's files; of one that is not there it says nothing, since whoever makes it
// limits it.
func (t *Tree) read(n Name) (usage, error) {
	m, err := t.manager(n, &cgroups.Resources{SkipDevices: true})
	if err != nil {
		return usage{}, err
	}
	var u usage
	if t.v2 {
		dir := m.Path("")
		quota, period, _ := strings.Cut(readText(dir, "cpu.max", &err), " ")
		u.Quota, u.Period = number(quota, &err), number(period, &err)
		u.Memory, u.used = number(readText(dir, "memory.max", &err), &err), number(readText(dir, "memory.current", &err), &err)
		return u, err
	}
	cpu, memory := m.Path("cpu"), m.Path("memory")
	u.Quota, u.Period = number(readText(cpu, "cpu.cfs_quota_us", &err), &err), number(readText(cpu, "cpu.cfs_period_us", &err), &err)
	u.Memory = number(readText(memory, "memory.limit_in_bytes", &err), &err)
	u.used = number(readText(memory, "memory.usage_in_bytes", &err), &err)
	return u, err
}

// readText reads a file of a group; a group that is not there has "".
func readText(dir, file string, failed *error) string {
	if dir == "" {
		return ""
	}
	text, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		*failed = errors.Join(*failed, err)
	}
	return strings.TrimSpace(string(text))
}

// unlimited is where cgroup v1 has a number for "no limit": more than any machine's memory.
const unlimited = 1 << 60

// number reads a limit; 0 is none, which the kernel writes as "max", -1 or the largest number of
// pages.
func number(text string, failed *error) int64 {
	if text == "" || text == "max" {
		return 0
	}
	v, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		*failed = errors.Join(*failed, fmt.Errorf("reading a limit: %w", err))
	}
	if v < 0 || v > unlimited {
		return 0
	}
	return v
}

// growing are the limits of wanted that are higher than now. Shares bound nothing and may change at
// any time.
func growing(now, wanted Limits) Limits {
	l := Limits{Shares: wanted.Shares}
	if now.Quota > 0 && wanted.Quota > now.Quota {
		l.Quota, l.Period = wanted.Quota, wanted.Period
	}
	if now.Memory > 0 && wanted.Memory > now.Memory {
		l.Memory = wanted.Memory
	}
	return l
}
