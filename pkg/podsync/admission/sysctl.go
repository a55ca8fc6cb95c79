package admission

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/podsync/podsysctl"
)

func checkSysctls(pod *corev1.Pod, allowed []string) *podspec.Termination {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	for _, s := range pod.Spec.SecurityContext.Sysctls {
		if text := forbidden(podsysctl.Normal(s.Name), pod, allowed); text != "" {
			return &podspec.Termination{Reason: "SysctlForbidden", Message: "forbidden sysctl: " + text}
		}
	}
	return nil
}

// forbidden says why the pod may not set a sysctl; "" when it may.
func forbidden(name string, pod *corev1.Pod, allowed []string) string {
	ok := podsysctl.Safe(name) || slices.ContainsFunc(allowed, func(pattern string) bool {
		pattern = podsysctl.Normal(pattern)
		prefix, wild := strings.CutSuffix(pattern, "*")
		return wild && strings.HasPrefix(name, prefix) || pattern == name
	})
	switch ns := podsysctl.Namespace(name); {
	case !ok:
		return fmt.Sprintf("%q not allowlisted", name)
	case ns == "IPC" && pod.Spec.HostIPC, ns == "Net" && pod.Spec.HostNetwork:
		return fmt.Sprintf("%q not allowed with host %s enabled", name, ns)
	}
	return ""
}

// ordered lists resources in the order in which kubelet checks them: cpu, memory, ephemeral
// storage, then the others by name.
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
