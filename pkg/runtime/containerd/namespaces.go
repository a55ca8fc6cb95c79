package containerd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/pkg/osthread"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// namespace files below a pod's run folder.
const (
	netFile = "net"
	ipcFile = "ipc"
	utsFile = "uts"
	pidFile = "pid"
)

// pinNamespaces makes the namespaces that the sandbox does not share with the host, sets them up
// and pins each as a bind mount in dir. A pinned namespace lives on without a process, which is why
// no pause container is needed.
func pinNamespaces(dir string, c runtime.SandboxConfig) (runtime.Namespaces, error) {
	flags, files := 0, []string{}
	ns := runtime.NamespacePaths(dir, c)
	ns.PID = "" // a PID namespace needs a process of its own, which comes later
	if ns.Net != "" {
		flags |= unix.CLONE_NEWNET | unix.CLONE_NEWUTS
		files = append(files, netFile, utsFile)
	}
	if ns.IPC != "" {
		flags |= unix.CLONE_NEWIPC
		files = append(files, ipcFile)
	}
	if err := checkSysctls(c); err != nil {
		return ns, err
	}
	if flags == 0 {
		return ns, nil
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return ns, fmt.Errorf("making the folder of namespaces: %w", err)
	}
	var failed error
	osthread.Run(func() bool {
		failed = func() error {
			if err := unix.Unshare(flags); err != nil {
				return fmt.Errorf("making namespaces: %w", err)
			}
			if err := setUp(c); err != nil {
				return err
			}
			for _, name := range files {
				if err := pin("/proc/thread-self/ns/"+name, filepath.Join(dir, name)); err != nil {
					return err
				}
			}
			return nil
		}()
		return false
	})
	return ns, failed
}

// setUp runs inside the new namespaces.
func setUp(c runtime.SandboxConfig) error {
	if !c.HostNetwork {
		if err := unix.Sethostname([]byte(c.Hostname)); err != nil {
			return fmt.Errorf("setting hostname %q: %w", c.Hostname, err)
		}
		if err := loopbackUp(); err != nil {
			return err
		}
	}
	return nil
}

// setSysctls sets kernel parameters inside a sandbox's namespaces. It comes after the network,
// whose interfaces have parameters of their own (net.ipv4.conf.eth0.*).
func setSysctls(ns runtime.Namespaces, sysctls map[string]string) (err error) {
	if len(sysctls) == 0 {
		return nil
	}
	osthread.Run(func() bool {
		for _, path := range []string{ns.Net, ns.IPC, ns.UTS} {
			if path == "" {
				continue
			}
			if err = enter(path); err != nil {
				return false
			}
		}
		for name, value := range sysctls {
			if err = os.WriteFile(sysctlPath(name), []byte(value), 0o644); err != nil {
				err = fmt.Errorf("setting sysctl %q to %q: %w", name, value, err)
				return false
			}
		}
		return false
	})
	return err
}

// enter moves this thread into a pinned namespace.
func enter(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening namespace %q: %w", path, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Setns(fd, 0); err != nil {
		return fmt.Errorf("entering namespace %q: %w", path, err)
	}
	return nil
}

// loopbackUp saves a run of the CNI loopback plugin.
func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bringing up the loopback interface: %w", err)
	}
	defer func() { _ = unix.Close(s) }()
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("bringing up the loopback interface: %w", err)
	}
	return nil
}

// sysctlPath takes both spellings, net.ipv4.tcp_syncookies and net/ipv4/conf/eth0.1/forwarding.
func sysctlPath(name string) string {
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '.' {
		name = strings.NewReplacer(".", "/", "/", ".").Replace(name)
	}
	return filepath.Join("/proc/sys", name)
}

// checkSysctls refuses what would change the host (kernel Documentation/admin-guide/sysctl: which
// of them are namespaced).
func checkSysctls(c runtime.SandboxConfig) error {
	for name := range c.Sysctls {
		dotted := strings.ReplaceAll(name, "/", ".")
		switch {
		case strings.Contains(name, ".."):
			return fmt.Errorf("sysctl %q is malformed", name)
		case strings.HasPrefix(dotted, "net."):
			if c.HostNetwork {
				return fmt.Errorf("sysctl %q is of the network namespace, which is the host's: leave out hostNetwork or the sysctl", name)
			}
		case strings.HasPrefix(dotted, "fs.mqueue.") || slices.Contains(ipcSysctls(), dotted):
			if c.HostIPC {
				return fmt.Errorf("sysctl %q is of the IPC namespace, which is the host's: leave out hostIPC or the sysctl", name)
			}
		case dotted == "kernel.domainname" && !c.HostNetwork:
		default:
			return fmt.Errorf("sysctl %q is not namespaced: it would change the whole node", name)
		}
	}
	return nil
}

// ipcSysctls are namespaced (kernel ipc/ipc_sysctl.c).
func ipcSysctls() []string {
	return []string{
		"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax", "kernel.shmmni",
		"kernel.shm_rmid_forced", "kernel.msg_next_id", "kernel.sem_next_id", "kernel.shm_next_id", "kernel.auto_msgmni",
	}
}

// pin binds a namespace file to path.
func pin(source, path string) error {
	if err := unpin(path); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return fmt.Errorf("pinning namespace: %w", err)
	}
	_ = f.Close()
	if err := unix.Mount(source, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("pinning namespace %q at %q: %w", source, path, err)
	}
	return nil
}

// unpin removes a pinned namespace; one that is not there is no error.
func unpin(path string) error {
	for { // as often as something was mounted over it
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break
		}
		if err != nil {
			return fmt.Errorf("unpinning namespace %q: %w", path, err)
		}
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("unpinning namespace: %w", err)
	}
	return nil
}

// unpinAll removes the folder of a pod's namespaces.
func unpinAll(dir string) error {
	var errs []error
	for _, name := range []string{netFile, ipcFile, utsFile, pidFile} {
		errs = append(errs, unpin(filepath.Join(dir, name)))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := os.Remove(dir); err != nil && !os.IsNotExist(err) && !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	return nil
}

// pinned says whether a namespace is still there: after a reboot its file is not, or is empty.
func pinned(path string) bool {
	var s unix.Statfs_t
	return unix.Statfs(path, &s) == nil && s.Type == unix.NSFS_MAGIC
}

// allPinned says whether every namespace of the sandbox is still there.
func allPinned(ns runtime.Namespaces) bool {
	for _, path := range []string{ns.Net, ns.IPC, ns.UTS, ns.PID} {
		if path != "" && !pinned(path) {
			return false
		}
	}
	return true
}
