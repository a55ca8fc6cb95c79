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

// ResizePod changes the limits of a running pod's group. With widen it only raises limits, which
// happens before the containers' limits are raised. Without, it sets all limits, which happens
// after the containers' limits were lowered. It refuses a memory limit below current usage: with
// cgroup v2 the kernel would start to kill.
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

// usage holds a group's current limits (only quota, period and memory) and its memory use.
type usage struct {
	Limits
	used int64 // bytes of memory
}

// read reads a group's limits. Missing files read as no limit: whoever creates them sets their
// limits.
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

// readText reads a file of a group; "" if the group does not exist.
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

// unlimited is above any machine's memory: cgroup v1 expresses "no limit" as a huge number.
const unlimited = 1 << 60

// number parses a limit; 0 means no limit, which the kernel writes as "max", -1 or the largest
// number of pages.
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

// growing returns the limits of wanted that are higher than now. Shares are always included: they
// bound nothing.
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
