package admission

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/podplan"
)

// safe are the sysctls that are namespaced and touch no other pod
// (https://kubernetes.io/docs/tasks/administer-cluster/sysctl-cluster/); all of them are namespaced from kernel 4.15 on.
func safe() []string {
	return []string{
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
	}
}

// CheckAllowedSysctls says what is wrong with a list of allowed sysctls or prefixes: each must be known to be namespaced.
func CheckAllowedSysctls(patterns []string) error {
	for _, p := range patterns {
		if name := strings.TrimSuffix(normalName(p), "*"); namespaceOf(name) == "" {
			return fmt.Errorf("allowing the sysctl %q: it is not known to be namespaced, so that it would change the whole node", p)
		}
	}
	return nil
}

func checkSysctls(pod *corev1.Pod, allowed []string) *podplan.Outcome {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	for _, s := range pod.Spec.SecurityContext.Sysctls {
		if text := forbidden(normalName(s.Name), pod, allowed); text != "" {
			return &podplan.Outcome{Reason: "SysctlForbidden", Message: "forbidden sysctl: " + text}
		}
	}
	return nil
}

// forbidden says why the pod may not set a sysctl, or "".
func forbidden(name string, pod *corev1.Pod, allowed []string) string {
	ok := slices.Contains(safe(), name) || slices.ContainsFunc(allowed, func(pattern string) bool {
		pattern = normalName(pattern)
		prefix, wild := strings.CutSuffix(pattern, "*")
		return wild && strings.HasPrefix(name, prefix) || pattern == name
	})
	switch ns := namespaceOf(name); {
	case !ok:
		return fmt.Sprintf("%q not allowlisted", name)
	case ns == "IPC" && pod.Spec.HostIPC, ns == "Net" && pod.Spec.HostNetwork:
		return fmt.Sprintf("%q not allowed with host %s enabled", name, ns)
	}
	return ""
}

// namespaceOf is the kernel namespace of a sysctl, "IPC" or "Net", or "" when it is not known to have one.
func namespaceOf(name string) string {
	switch {
	case strings.HasPrefix(name, "net."):
		return "Net"
	case strings.HasPrefix(name, "fs.mqueue."), strings.HasPrefix(name, "kernel.shm"), strings.HasPrefix(name, "kernel.msg"), name == "kernel.sem":
		return "IPC"
	}
	return ""
}

// normalName writes a sysctl with dots between its parts, as kubelet does: the first separator tells which one is meant, so
// that in net/ipv4/conf/eth0.100/forwarding the dot belongs to the interface and becomes a slash.
func normalName(name string) string {
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

// ordered lists resources as kubelet compares them: cpu, memory, ephemeral storage, then the others by name.
func ordered(list corev1.ResourceList) []corev1.ResourceName {
	first := []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage}
	names := make([]corev1.ResourceName, 0, len(list))
	for name := range list {
		if !slices.Contains(first, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return append(first, names...)
}
