package containerd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/pkg/osthread"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// Names of the namespace files in a pod's run folder.
const (
	netFile = "net"
	ipcFile = "ipc"
	utsFile = "uts"
	pidFile = "pid"
)

// pinNamespaces creates the namespaces that the sandbox does not share with the host, configures
// them and pins each as a bind mount in dir. A pinned namespace lives on without a process, so no
// pause container is needed.
func pinNamespaces(dir string, c runtime.SandboxConfig) (runtime.Namespaces, error) {
	flags, files := 0, []string{}
	ns := runtime.NamespacePaths(dir, c)
	ns.PID = "" // a PID namespace needs a process, which startReaper starts
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

// setUp sets host name and loopback inside the new namespaces.
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

// loopbackUp does the work of the CNI loopback plugin without running it.
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

// pin bind-mounts a namespace file at path.
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

// unpin removes a pinned namespace. One that does not exist is no error.
func unpin(path string) error {
	for { // once for each mount on top of it
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

// pinned reports whether a namespace is still pinned: after a reboot its file is missing or empty.
func pinned(path string) bool {
	var s unix.Statfs_t
	return unix.Statfs(path, &s) == nil && s.Type == unix.NSFS_MAGIC
}

// allPinned reports whether every namespace of the sandbox is still pinned.
func allPinned(ns runtime.Namespaces) bool {
	for _, path := range []string{ns.Net, ns.IPC, ns.UTS, ns.PID} {
		if path != "" && !pinned(path) {
			return false
		}
	}
	return true
}
