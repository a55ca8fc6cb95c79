package containerd

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nodeagent/nodeagent/pkg/osthread"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// setSysctls sets kernel parameters inside a sandbox's namespaces. It runs after the network setup,
// because each interface has its own parameters (net.ipv4.conf.eth0.*).
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

// sysctlPath accepts both spellings, net.ipv4.tcp_syncookies and net/ipv4/conf/eth0.1/forwarding.
func sysctlPath(name string) string {
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '.' {
		name = strings.NewReplacer(".", "/", "/", ".").Replace(name)
	}
	return filepath.Join("/proc/sys", name)
}

// checkSysctls refuses sysctls that would change the host (kernel Documentation/admin-guide/sysctl
// says which are namespaced).
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

// ipcSysctls lists the namespaced ones of the IPC namespace (kernel ipc/ipc_sysctl.c).
func ipcSysctls() []string {
	return []string{
		"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax", "kernel.shmmni",
		"kernel.shm_rmid_forced", "kernel.msg_next_id", "kernel.sem_next_id", "kernel.shm_next_id", "kernel.auto_msgmni",
	}
}
