package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// HostConfig is what the host checks look at.
type HostConfig struct {
	// Containerd is its socket; CNIBinDirs and CNIConfDir as in config.Network.
	Containerd string
	CNIBinDirs []string
	CNIConfDir string
	// Listen are the addresses that the daemon will listen on; not checked when it runs already.
	Listen []netip.AddrPort
	// FailSwapOn makes swap an error.
	FailSwapOn bool
}

// checkHost returns a line of facts. Each error names its check, for --ignore; full preflight is more than this.
func checkHost(ctx context.Context, c HostConfig, running bool, ignored func(check string) bool) (string, error) {
	var facts []string
	for _, check := range []struct {
		name string
		run  func() (fact string, err error)
		next string
	}{
		{"root", checkRoot, "run it as root"},
		{"kernel", checkKernel, "use Linux 5.13 or newer"},
		{"cgroup", checkCgroup, "mount cgroup2 on /sys/fs/cgroup"},
		{"containerd", func() (string, error) { return checkContainerd(ctx, c.Containerd) }, "systemctl enable --now containerd   (or give --containerd-address)"},
		{"cni", func() (string, error) { return checkCNI(c) }, "install the CNI plugins there (or give --cni-bin-dir)"},
		{"swap", func() (string, error) { return checkSwap(c.FailSwapOn) }, "swapoff -a   (or failSwapOn: false in the configuration)"},
		{"ports", func() (string, error) { return checkPorts(ctx, c.Listen, running) }, "stop the program that listens there (a kubelet or kube-proxy?), or set another port"},
	} {
		fact, err := check.run()
		switch {
		case err != nil && ignored(check.name):
			facts = append(facts, check.name+" ignored")
		case err != nil:
			return "", fail(CodeHost, check.next+"; or skip the check: --ignore "+check.name, "checking this machine (%s): %w", check.name, err)
		case fact != "":
			facts = append(facts, fact)
		}
	}
	return strings.Join(facts, ", "), nil
}

func checkRoot() (string, error) {
	if os.Geteuid() != 0 {
		return "", fmt.Errorf("this is user id %d, not root", os.Geteuid())
	}
	return "", nil
}

func checkKernel() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("reading the kernel's version: %w", err)
	}
	release := unix.ByteSliceToString(u.Release[:])
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err == nil && (major < 5 || major == 5 && minor < 13) {
		return "", fmt.Errorf("kernel %s is too old", release)
	}
	return "kernel " + release, nil
}

func checkCgroup() (string, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &fs); err != nil {
		return "", fmt.Errorf("looking at /sys/fs/cgroup: %w", err)
	}
	if fs.Type == unix.CGROUP2_SUPER_MAGIC {
		return "cgroup v2", nil
	}
	if _, err := os.Stat("/sys/fs/cgroup/memory"); err == nil {
		return "cgroup v1 (on its way out)", nil
	}
	return "", errors.New("neither cgroup v2 nor v1's memory controller is mounted on /sys/fs/cgroup")
}

func checkContainerd(ctx context.Context, socket string) (string, error) {
	conn, err := (&net.Dialer{Timeout: 3 * time.Second}).DialContext(ctx, "unix", socket)
	if err != nil {
		return "", fmt.Errorf("connecting to containerd: %w", err)
	}
	return "containerd answers", conn.Close()
}

func checkCNI(c HostConfig) (string, error) {
	plugins := map[string]bool{}
	for _, dir := range c.CNIBinDirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			plugins[e.Name()] = true
		}
	}
	if len(plugins) == 0 {
		return "", fmt.Errorf("no plugin is in %s", strings.Join(c.CNIBinDirs, ", "))
	}
	var conf int
	for _, pattern := range []string{"*.conflist", "*.conf", "*.json"} {
		found, err := filepath.Glob(filepath.Join(c.CNIConfDir, pattern))
		if err != nil {
			return "", fmt.Errorf("looking for CNI configuration: %w", err)
		}
		conf += len(found)
	}
	return fmt.Sprintf("CNI %d plugins, %d configurations", len(plugins), conf), nil
}

func checkSwap(fatal bool) (string, error) {
	data, err := os.ReadFile("/proc/swaps")
	if err != nil {
		return "", nil //nolint:nilerr // a kernel without swap has no such file
	}
	devices := strings.Count(strings.TrimSpace(string(data)), "\n")
	switch {
	case devices == 0:
		return "swap off", nil
	case fatal:
		return "", fmt.Errorf("swap is on (%d devices)", devices)
	}
	return fmt.Sprintf("swap on (%d devices)", devices), nil
}

func checkPorts(ctx context.Context, listen []netip.AddrPort, running bool) (string, error) {
	if running {
		return "", nil
	}
	for _, a := range listen {
		if !a.IsValid() {
			continue
		}
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", a.String())
		if err != nil {
			return "", fmt.Errorf("trying port %d: %w", a.Port(), err)
		}
		if err := l.Close(); err != nil {
			return "", fmt.Errorf("trying port %d: %w", a.Port(), err)
		}
	}
	return "", nil
}
