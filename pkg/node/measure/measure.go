// Package measure is EDGE: it measures what thresholds and limits are compared with: free memory,
// disk and processes of the machine, and what a pod takes of the node's disk. It reads /proc and
// file systems, and writes nothing.
package measure

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/nodeagent/nodeagent/pkg/node/pressure"
)

// Machine measures the machine.
type Machine struct {
	Root string // the folder that stands for "/" in tests
	Disk string // a path on the node's file system: the agent's root folder
}

// Sample measures every signal that this machine has. The image store is not measured: it is
// containerd's, and usually on the node's own file system.
func (m Machine) Sample() (pressure.Sample, error) {
	memory, err := m.memory()
	if err != nil {
		return nil, err
	}
	processes, err := m.processes()
	if err != nil {
		return nil, err
	}
	bytes, inodes, err := m.disk()
	if err != nil {
		return nil, err
	}
	return pressure.Sample{
		pressure.MemoryAvailable: memory, pressure.PIDAvailable: processes,
		pressure.NodeFSAvailable: bytes, pressure.NodeFSInodesFree: inodes,
	}, nil
}

func (m Machine) read(p string) (string, error) {
	b, err := os.ReadFile(filepath.Join("/", m.Root, p))
	if err != nil {
		return "", fmt.Errorf("measuring the machine: %w", err)
	}
	return string(b), nil
}

// memory reads MemAvailable and MemTotal (proc_meminfo(5); the unit is always kB of 1024).
func (m Machine) memory() (pressure.Measurement, error) {
	text, err := m.read("/proc/meminfo")
	if err != nil {
		return pressure.Measurement{}, err
	}
	values := map[string]int64{}
	for s := bufio.NewScanner(bytes.NewReader([]byte(text))); s.Scan(); {
		f := strings.Fields(s.Text())
		if len(f) < 2 {
			continue
		}
		if kib, err := strconv.ParseInt(f[1], 10, 64); err == nil {
			values[strings.TrimSuffix(f[0], ":")] = kib << 10
		}
	}
	return pressure.Measurement{Available: values["MemAvailable"], Total: values["MemTotal"]}, nil
}

// processes are the threads that exist (fourth field of proc_loadavg(5)) and may exist.
func (m Machine) processes() (pressure.Measurement, error) {
	load, err := m.read("/proc/loadavg")
	if err != nil {
		return pressure.Measurement{}, err
	}
	most, err := m.read("/proc/sys/kernel/pid_max")
	if err != nil {
		return pressure.Measurement{}, err
	}
	total, err := strconv.ParseInt(strings.TrimSpace(most), 10, 64)
	if err != nil {
		return pressure.Measurement{}, fmt.Errorf("reading pid_max %q: %w", most, err)
	}
	f := strings.Fields(load)
	if len(f) < 4 {
		return pressure.Measurement{}, fmt.Errorf("reading the number of threads: %q has no fourth field", load)
	}
	_, threads, _ := strings.Cut(f[3], "/")
	n, err := strconv.ParseInt(threads, 10, 64)
	if err != nil {
		return pressure.Measurement{}, fmt.Errorf("reading the number of threads in %q: %w", load, err)
	}
	return pressure.Measurement{Available: total - n, Total: total}, nil
}

// disk asks the file system for its size and for what unprivileged writers can still use
// (statfs(2)).
func (m Machine) disk() (size, inodes pressure.Measurement, err error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(m.Disk, &s); err != nil {
		return size, inodes, fmt.Errorf("measuring the file system at %q: %w", m.Disk, err)
	}
	return pressure.Measurement{Available: int64(s.Bavail) * s.Bsize, Total: int64(s.Blocks) * s.Bsize},
		pressure.Measurement{Available: int64(s.Ffree), Total: int64(s.Files)}, nil
}
