package bootstrap

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/validation"
)

// HostConfig says what the host checks check.
type HostConfig struct {
	// NodeName is the name to join by.
	NodeName   string
	CNIBinDirs []string
	CNIConfDir string
	// Listen are the daemon's addresses; they are not checked while it runs.
	Listen []netip.AddrPort
	// FailSwapOn makes swap an error, FailCgroupV1 makes cgroup v1 one.
	FailSwapOn, FailCgroupV1 bool
	// SystemdCgroups: systemd makes the cgroups.
	SystemdCgroups bool
	// More are checks that other packages make: containerd, iptables.
	More []HostCheck
}

// HostCheck is one check of this machine before it joins. It changes nothing.
type HostCheck struct {
	// Name is for --ignore.
	Name string
	// Run returns a fact for people, or an error that says what is wrong; NotChecked if it cannot
	// tell.
	Run func(ctx context.Context) (fact string, err error)
	// Remedy is what to do when it fails.
	Remedy string
}

// NotChecked is the error of a check that cannot tell, with the reason. It does not count as a
// problem.
type NotChecked string

func (n NotChecked) Error() string { return string(n) }

// hostChecks are all host checks, in the order of the output.
func hostChecks(c HostConfig, running bool) []HostCheck {
	local := func(f func() (string, error)) func(context.Context) (string, error) {
		return func(context.Context) (string, error) { return f() }
	}
	checks := []HostCheck{
		{"root", local(checkRoot), "run it as root"},
		{
			"hostname", local(func() (string, error) { return "", checkName(c.NodeName) }),
			"give another name with --node-name NAME, or rename the machine: hostnamectl set-hostname NAME",
		},
		{"kernel", local(checkKernel), "use Linux 5.13 or newer"},
		{"features", local(checkFeatures), "use a kernel with these features (the kernels of distributions have them)"},
		{
			"cgroup", local(func() (string, error) { return checkCgroup(c) }),
			"boot with cgroup v2 (kernel parameter systemd.unified_cgroup_hierarchy=1), mounted on /sys/fs/cgroup",
		},
	}
	checks = append(checks, c.More...)
	return append(checks,
		HostCheck{"cni", local(func() (string, error) { return checkCNI(c) }), "install the CNI plugins there (or give --cni-bin-dir)"},
		HostCheck{"swap", local(func() (string, error) { return checkSwap(c.FailSwapOn) }), "swapoff -a   (or failSwapOn: false in the configuration)"},
		HostCheck{
			"ports", func(ctx context.Context) (string, error) { return checkPorts(ctx, c.Listen, running) },
			"stop the program that listens there (a kubelet or kube-proxy? ss -ltnp shows it), or set another port",
		},
	)
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

func checkName(name string) error {
	if m := validation.IsDNS1123Subdomain(name); len(m) > 0 {
		return fmt.Errorf("%q is no node name: %s", name, m[0])
	}
	return nil
}

// checkFeatures looks for kernel features that every pod needs, as far as the kernel shows them
// without loading a module.
func checkFeatures() (string, error) {
	var missing []string
	for _, f := range []struct{ path, what string }{
		{"/proc/self/ns/net", "network namespaces (CONFIG_NET_NS)"},
		{"/proc/self/ns/ipc", "IPC namespaces (CONFIG_IPC_NS)"},
		{"/proc/self/ns/uts", "UTS namespaces (CONFIG_UTS_NS)"},
		{"/proc/self/ns/pid", "PID namespaces (CONFIG_PID_NS)"},
		{"/proc/sys/kernel/seccomp/actions_avail", "seccomp filters (CONFIG_SECCOMP_FILTER)"},
		{"/proc/sys/net/ipv4/ip_forward", "IPv4 (CONFIG_INET)"},
	} {
		if _, err := os.Stat(f.path); err != nil {
			missing = append(missing, f.what)
		}
	}
	if len(missing) > 0 {
		return "", fmt.Errorf("the kernel has no %s", strings.Join(missing, ", no "))
	}
	return "", nil
}

func checkCgroup(c HostConfig) (string, error) {
	var at unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &at); err != nil {
		return "", fmt.Errorf("reading the type of /sys/fs/cgroup: %w", err)
	}
	if c.SystemdCgroups {
		if _, err := os.Stat("/run/systemd/system"); err != nil {
			return "", errors.New("cgroupDriver is systemd, and systemd does not run here (set cgroupDriver: cgroupfs)")
		}
	}
	fact, have := "cgroup v2", map[string]bool{}
	if at.Type == unix.CGROUP2_SUPER_MAGIC {
		text, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
		if err != nil {
			return "", fmt.Errorf("reading cgroup controllers: %w", err)
		}
		for _, name := range strings.Fields(string(text)) {
			have[name] = true
		}
	} else {
		if c.FailCgroupV1 {
			return "", errors.New("this is cgroup v1, and failCgroupV1 is true")
		}
		fact = "cgroup v1 (deprecated)"
		for _, name := range []string{"cpu", "memory", "pids"} {
			_, err := os.Stat("/sys/fs/cgroup/" + name)
			have[name] = err == nil
		}
	}
	for _, name := range []string{"cpu", "memory", "pids"} {
		if !have[name] {
			return "", fmt.Errorf("%s: controller %s is missing", fact, name)
		}
	}
	return fact, nil
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
		return "", fmt.Errorf("there is no plugin in %s", strings.Join(c.CNIBinDirs, ", "))
	}
	conf, wanted, err := cniTypes(c.CNIConfDir)
	if err != nil {
		return "", err
	}
	var missing []string
	for _, t := range wanted {
		if !plugins[t] {
			missing = append(missing, t)
		}
	}
	if len(missing) > 0 {
		return "", fmt.Errorf("%s names plugins that are not in %s: %s", conf, strings.Join(c.CNIBinDirs, ", "), strings.Join(missing, ", "))
	}
	if conf == "" {
		conf = "no configuration yet"
	}
	return fmt.Sprintf("CNI %d plugins, %s", len(plugins), filepath.Base(conf)), nil
}

// cniTypes returns the plugins of the network that will be used: that of the first configuration
// file by name.
func cniTypes(dir string) (file string, types []string, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil, nil // a DaemonSet will install it
	}
	if err != nil {
		return "", nil, fmt.Errorf("looking for CNI configuration: %w", err)
	}
	for _, e := range entries {
		if !slices.Contains([]string{".conflist", ".conf", ".json"}, filepath.Ext(e.Name())) {
			continue
		}
		file = filepath.Join(dir, e.Name())
		text, err := os.ReadFile(file)
		if err != nil {
			return "", nil, fmt.Errorf("reading CNI configuration: %w", err)
		}
		type plugin struct {
			Type string
			IPAM struct{ Type string }
		}
		var conf struct {
			plugin
			Plugins []plugin
		}
		if err := json.Unmarshal(text, &conf); err != nil {
			return "", nil, fmt.Errorf("reading CNI configuration %q: %w", file, err)
		}
		for _, p := range append(conf.Plugins, conf.plugin) {
			for _, t := range []string{p.Type, p.IPAM.Type} {
				if t != "" && !slices.Contains(types, t) {
					types = append(types, t)
				}
			}
		}
		return file, types, nil
	}
	return "", nil, nil
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
	var taken error
	for _, a := range listen {
		if !a.IsValid() || a.Port() == 0 {
			continue
		}
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", a.String())
		if err == nil {
			err = l.Close()
		}
		if err != nil {
			taken = errors.Join(taken, fmt.Errorf("listening on port %d: %w", a.Port(), err))
		}
	}
	return "", taken
}
