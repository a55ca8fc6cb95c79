// Package facts is EDGE: it reads what the machine is from /proc, /sys, /etc and the file system,
// and asks the kernel for its routes and addresses, for the Node object. It writes nothing.
// Everything is read each time that it is asked for: processors, memory and huge pages come and go
// while a machine is up.
package facts

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Machine are facts of the machine itself.
type Machine struct {
	Info     corev1.NodeSystemInfo // without versions of agent and runtime
	Capacity corev1.ResourceList   // cpu, memory, hugepages-*
}

// Reader reads below other roots in tests.
type Reader struct {
	Root string // "" for "/"
}

func (r Reader) path(p string) string { return filepath.Join("/", r.Root, p) }

func (r Reader) line(p string) (string, error) {
	b, err := os.ReadFile(r.path(p))
	if err != nil {
		return "", fmt.Errorf("reading a fact of the machine: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// Machine reads the machine. A fact that identifies it for people (machine id, product UUID) may
// be missing; kernel, memory and processors may not.
func (r Reader) Machine() (Machine, error) {
	var m Machine
	bootID, err := r.line("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return m, err
	}
	kernel, err := r.line("/proc/sys/kernel/osrelease")
	if err != nil {
		return m, err
	}
	memory, swap, err := r.memory()
	if err != nil {
		return m, err
	}
	cpus, err := r.cpus()
	if err != nil {
		return m, err
	}
	m.Info = corev1.NodeSystemInfo{
		MachineID: r.first("/etc/machine-id", "/var/lib/dbus/machine-id"),
		// The product UUID is that of the hardware; machines without one are told apart by their
		// machine id.
		SystemUUID:      r.first("/sys/class/dmi/id/product_uuid", "/proc/device-tree/vm,uuid", "/etc/machine-id"),
		BootID:          bootID,
		KernelVersion:   kernel,
		OSImage:         r.osImage(),
		OperatingSystem: runtime.GOOS,
		Architecture:    runtime.GOARCH,
	}
	if swap > 0 {
		m.Info.Swap = &corev1.NodeSwapStatus{Capacity: &swap}
	}
	m.Capacity = corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewQuantity(int64(cpus), resource.DecimalSI),
		corev1.ResourceMemory: *resource.NewQuantity(memory, resource.BinarySI),
	}
	return m, r.hugePages(m.Capacity)
}

// first returns the first readable file's line, or "".
func (r Reader) first(paths ...string) string {
	for _, p := range paths {
		if s, err := r.line(p); err == nil && s != "" {
			return s
		}
	}
	return ""
}

// memory returns MemTotal and SwapTotal in bytes (proc_meminfo(5); the unit there is always kB of
// 1024).
func (r Reader) memory() (total, swap int64, err error) {
	b, err := os.ReadFile(r.path("/proc/meminfo"))
	if err != nil {
		return 0, 0, fmt.Errorf("reading memory: %w", err)
	}
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		f := strings.Fields(s.Text())
		if len(f) < 2 || (f[0] != "MemTotal:" && f[0] != "SwapTotal:") {
			continue
		}
		kib, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("reading memory in %q: %w", s.Text(), err)
		}
		if f[0] == "MemTotal:" {
			total = kib << 10
		} else {
			swap = kib << 10
		}
	}
	if total == 0 {
		return 0, 0, fmt.Errorf("reading memory: no MemTotal in %s", r.path("/proc/meminfo"))
	}
	return total, swap, nil
}

// cpus counts the processors that are online, not those this process may use.
func (r Reader) cpus() (int, error) {
	s, err := r.line("/sys/devices/system/cpu/online")
	if err != nil {
		return runtime.NumCPU(), nil //nolint:nilerr // a kernel without hotplug (User-Mode Linux) has no such file
	}
	return countList(s)
}

// countList counts the members of a kernel list such as "0-3,7"
// (Documentation/admin-guide/kernel-parameters.rst).
func countList(s string) (int, error) {
	n := 0
	for part := range strings.SplitSeq(s, ",") {
		lo, hi, ranged := strings.Cut(part, "-")
		first, err := strconv.Atoi(lo)
		if err != nil {
			return 0, fmt.Errorf("reading processor list %q: %w", s, err)
		}
		last := first
		if ranged {
			if last, err = strconv.Atoi(hi); err != nil || last < first {
				return 0, fmt.Errorf("reading processor list %q: bad range %q", s, part)
			}
		}
		n += last - first + 1
	}
	return n, nil
}

// hugePages adds hugepages-<size> for each size that the kernel has.
func (r Reader) hugePages(into corev1.ResourceList) error {
	dirs, err := filepath.Glob(r.path("/sys/kernel/mm/hugepages/hugepages-*kB"))
	if err != nil {
		return fmt.Errorf("listing huge pages: %w", err)
	}
	for _, d := range dirs {
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(d), "hugepages-"), "kB"), 10, 64)
		if err != nil {
			return fmt.Errorf("reading huge pages in %q: %w", d, err)
		}
		b, err := os.ReadFile(filepath.Join(d, "nr_hugepages"))
		if err != nil {
			return fmt.Errorf("reading huge pages: %w", err)
		}
		pages, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
		if err != nil {
			return fmt.Errorf("reading huge pages in %q: %w", d, err)
		}
		size := resource.NewQuantity(kib<<10, resource.BinarySI)
		into[corev1.ResourceName(corev1.ResourceHugePagesPrefix+size.String())] = *resource.NewQuantity(pages*kib<<10, resource.BinarySI)
	}
	return nil
}

// osImage is PRETTY_NAME of os-release(5).
func (r Reader) osImage() string {
	for _, p := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		b, err := os.ReadFile(r.path(p))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
				return strings.Trim(v, `"'`)
			}
		}
	}
	return "Linux"
}
