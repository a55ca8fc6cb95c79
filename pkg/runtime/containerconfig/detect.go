package containerconfig

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/moby/sys/capability"
	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/pkg/runtime/ocispec"
)

const cgroupRoot = "/sys/fs/cgroup"

// Detect reads the facts of this machine that specs depend on. CPUQuotaPeriod and
// SingleProcessOOMKill are settings, which the caller adds.
func Detect() (n ocispec.Node, recursiveReadOnly bool, err error) {
	n.CgroupV2 = onCgroup2()
	n.SwapControl = swapControl(n.CgroupV2)
	n.HugePageSizes = hugePageSizes(n.CgroupV2)
	if n.MemoryCapacity, err = memoryCapacity(); err != nil {
		return n, false, err
	}
	if n.Capabilities, n.MinOOMScoreAdj, err = privileges(); err != nil {
		return n, false, err
	}
	// Thermal throttling leaks other pods' secrets; kubelet masks the same files.
	if n.MaskedPaths, err = filepath.Glob("/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle"); err != nil {
		return n, false, err
	}
	if n.CgroupV2 {
		n.CgroupMountOptions = cgroupMountOptions()
	}
	return n, !errors.Is(unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{}), unix.ENOSYS), err
}

// cgroupMountOptions returns those cgroup v2 mount options that every mount changes for all mounts
// (kernel Documentation/admin-guide/cgroup-v2).
func cgroupMountOptions() []string {
	mounts, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(cgroupRoot))
	if err != nil || len(mounts) == 0 {
		return nil
	}
	var found []string
	for _, o := range strings.Split(mounts[len(mounts)-1].VFSOptions, ",") {
		if o == "nsdelegate" || o == "memory_recursiveprot" {
			found = append(found, o)
		}
	}
	return found
}

func onCgroup2() bool {
	var s unix.Statfs_t
	return unix.Statfs(cgroupRoot, &s) == nil && s.Type == unix.CGROUP2_SUPER_MAGIC
}

func memoryCapacity() (int64, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("reading the machine's memory: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "MemTotal:" {
			kib, err := strconv.ParseInt(fields[1], 10, 64)
			if err != nil {
				return 0, fmt.Errorf("reading the machine's memory: %w", err)
			}
			return kib << 10, nil
		}
	}
	return 0, errors.New("reading the machine's memory: /proc/meminfo has no MemTotal")
}

// privileges returns the agent's capabilities, which no container can exceed, and the lowest
// oom_score_adj it can set, which without CAP_SYS_RESOURCE is its own.
func privileges() (caps []string, minOOM int, err error) {
	own, err := capability.NewPid2(0)
	if err == nil {
		err = own.Load()
	}
	if err != nil {
		return nil, 0, fmt.Errorf("reading the agent's capabilities: %w", err)
	}
	known, err := capability.ListSupported()
	if err != nil {
		return nil, 0, fmt.Errorf("listing the kernel's capabilities: %w", err)
	}
	for _, c := range known {
		if own.Get(capability.BOUNDING, c) {
			caps = append(caps, "CAP_"+strings.ToUpper(c.String()))
		}
	}
	if own.Get(capability.EFFECTIVE, capability.CAP_SYS_RESOURCE) {
		return caps, -1000, nil
	}
	text, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return nil, 0, fmt.Errorf("reading the agent's oom_score_adj: %w", err)
	}
	minOOM, err = strconv.Atoi(strings.TrimSpace(string(text)))
	return caps, minOOM, err
}

// hugePageSizes returns the page sizes that cgroups can limit, as the kernel spells them.
func hugePageSizes(v2 bool) []string {
	if v2 {
		text, err := os.ReadFile(filepath.Join(cgroupRoot, "cgroup.controllers"))
		if err != nil || !strings.Contains(string(text), "hugetlb") {
			return nil
		}
	} else if _, err := os.Stat(filepath.Join(cgroupRoot, "hugetlb", "cgroup.procs")); err != nil {
		return nil
	}
	entries, err := os.ReadDir("/sys/kernel/mm/hugepages")
	if err != nil {
		return nil
	}
	var sizes []string
	for _, e := range entries {
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(e.Name(), "hugepages-"), "kB"), 10, 64)
		if err != nil {
			continue
		}
		switch {
		case kib >= 1<<20:
			sizes = append(sizes, fmt.Sprintf("%dGB", kib>>20))
		case kib >= 1<<10:
			sizes = append(sizes, fmt.Sprintf("%dMB", kib>>10))
		default:
			sizes = append(sizes, fmt.Sprintf("%dKB", kib))
		}
	}
	return sizes
}

// swapControl reports whether cgroups can limit swap. With v2 it looks at the agent's own cgroup:
// the root has no such file.
func swapControl(v2 bool) bool {
	file := filepath.Join(cgroupRoot, "memory", "memory.memsw.limit_in_bytes")
	if v2 {
		text, err := os.ReadFile("/proc/self/cgroup")
		if err != nil {
			return false
		}
		_, own, found := strings.Cut(string(text), "0::")
		if !found {
			return false
		}
		file = filepath.Join(cgroupRoot, strings.TrimSpace(own), "memory.swap.max")
	}
	_, err := os.Stat(file)
	return err == nil
}

// HostDevices lists the machine's devices.
func HostDevices() ([]specs.LinuxDevice, error) { return devices("/dev") }

// devices lists the device nodes below dir, without those that every container has anyway.
func devices(dir string) ([]specs.LinuxDevice, error) {
	var list []specs.LinuxDevice
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			return nil // it disappeared, or this agent may not read it
		}
		if err != nil {
			return err
		}
		if d.IsDir() {
			switch d.Name() {
			case "pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev":
				return filepath.SkipDir
			}
			return nil
		}
		if d.Type()&fs.ModeDevice == 0 || d.Name() == "console" {
			return nil
		}
		if device, ok := deviceOf(path); ok {
			list = append(list, device)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing the machine's devices: %w", err)
	}
	return list, nil
}

func deviceOf(path string) (specs.LinuxDevice, bool) {
	var s unix.Stat_t
	if unix.Lstat(path, &s) != nil {
		return specs.LinuxDevice{}, false
	}
	kind := "b"
	if s.Mode&unix.S_IFMT == unix.S_IFCHR {
		kind = "c"
	}
	mode := fs.FileMode(s.Mode & 0o7777)
	return specs.LinuxDevice{
		Path: path, Type: kind, Major: int64(unix.Major(s.Rdev)), Minor: int64(unix.Minor(s.Rdev)),
		FileMode: &mode, UID: &s.Uid, GID: &s.Gid,
	}, true
}
