// Package podsysctl is PURE: which sysctls a pod may set, by their names: the safe ones, those with
// a namespace of the pod, and how their names are written.
package podsysctl

import (
	"fmt"
	"slices"
	"strings"
)

// Safe reports whether a sysctl is namespaced and affects no other pod
// (https://kubernetes.io/docs/tasks/administer-cluster/sysctl-cluster/). All of them are namespaced
// since kernel 4.15.
func Safe(name string) bool {
	return slices.Contains([]string{
		"kernel.shm_rmid_forced",
		"net.ipv4.ip_local_port_range",
		"net.ipv4.ip_local_reserved_ports",
		"net.ipv4.ip_unprivileged_port_start",
		"net.ipv4.ping_group_range",
		"net.ipv4.tcp_fin_timeout",
		"net.ipv4.tcp_keepalive_intvl",
		"net.ipv4.tcp_keepalive_probes",
		"net.ipv4.tcp_keepalive_time",
		"net.ipv4.tcp_rmem",
		"net.ipv4.tcp_syncookies",
		"net.ipv4.tcp_wmem",
	}, name)
}

// CheckAllowed says what is wrong with an entry of allowedUnsafeSysctls: a sysctl, or a prefix with
// "*" at its end, that is known to be namespaced.
func CheckAllowed(pattern string) error {
	name := strings.TrimSuffix(Normal(pattern), "*")
	if name == "" || len(name) > 253 || strings.ContainsFunc(name, func(r rune) bool { return !strings.ContainsRune(letters, r) }) {
		return fmt.Errorf("allowing the sysctl %q: it must be a name such as net.core.somaxconn, or a prefix such as kernel.shm*", pattern)
	}
	if Namespace(name) == "" {
		return fmt.Errorf("allowing the sysctl %q: it may change the whole node, since only those of net., fs.mqueue., kernel.shm, "+
			"kernel.msg and kernel.sem are known to be namespaced", pattern)
	}
	return nil
}

// letters are the characters in names of sysctls.
const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/"

// Namespace is the kernel namespace of a sysctl, "IPC" or "Net"; "" when none is known.
func Namespace(name string) string {
	switch {
	case strings.HasPrefix(name, "net."):
		return "Net"
	case strings.HasPrefix(name, "fs.mqueue."), strings.HasPrefix(name, "kernel.shm"), strings.HasPrefix(name, "kernel.msg"), name == "kernel.sem":
		return "IPC"
	}
	return ""
}

// Normal writes a sysctl with dots as separators, as kubelet does. The first separator in the name
// decides which one it uses: in net/ipv4/conf/eth0.100/forwarding, the dot is part of the
// interface's name and becomes a slash.
func Normal(name string) string {
	first := strings.IndexAny(name, "./")
	if first < 0 || name[first] == '.' {
		return name
	}
	return strings.Map(func(r rune) rune {
		switch r {
		case '/':
			return '.'
		case '.':
			return '/'
		}
		return r
	}, name)
}
