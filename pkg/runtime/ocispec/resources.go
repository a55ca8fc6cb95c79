package ocispec

import (
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/runtime/cgroup/qos"
)

func resources(in Input, sc *corev1.SecurityContext) *specs.LinuxResources {
	r := Resources(in.Pod, in.Container, in.Node)
	// The OCI runtime always allows the harmless devices (null, zero, full, random, urandom, tty,
	// ptmx, pts).
	r.Devices = []specs.LinuxDeviceCgroup{{Allow: isTrue(sc.Privileged), Access: "rwm"}}
	return r
}

// Resources returns the limits of one container by its pod spec, without device rules. An in-place
// resize applies the same.
func Resources(pod *corev1.Pod, c *corev1.Container, n Node) *specs.LinuxResources {
	request, limit := qos.ContainerCPU(pod, c)
	shares := qos.Shares(request)
	r := &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &shares}}
	if n.CPUQuotaPeriod > 0 && limit > 0 {
		period, quota := uint64(n.CPUQuotaPeriod), qos.Quota(limit, n.CPUQuotaPeriod)
		r.CPU.Period, r.CPU.Quota = &period, &quota
	}
	if memory := qos.ContainerMemory(pod, c); memory > 0 {
		r.Memory = &specs.LinuxMemory{Limit: &memory}
		if n.SwapControl && !n.CgroupV2 {
			r.Memory.Swap = &memory // limits memory plus swap, so no swap is left
		}
	}
	if n.CgroupV2 {
		r.Unified = unified(n)
	}
	r.HugepageLimits = hugePages(pod, c, n.HugePageSizes)
	return r
}

func unified(n Node) map[string]string {
	u := map[string]string{}
	if !n.SingleProcessOOMKill {
		u["memory.oom.group"] = "1"
	}
	if n.SwapControl {
		u["memory.swap.max"] = "0"
	}
	if len(u) == 0 {
		return nil
	}
	return u
}

// hugePages limits every page size of the machine: to the container's limit, else to the pod-level
// one, else to 0.
func hugePages(pod *corev1.Pod, c *corev1.Container, sizes []string) []specs.LinuxHugepageLimit {
	var list []specs.LinuxHugepageLimit
	for _, size := range sizes {
		list = append(list, specs.LinuxHugepageLimit{Pagesize: size, Limit: 0})
	}
	asked := corev1.ResourceList{}
	if pod.Spec.Resources != nil {
		maps.Copy(asked, pod.Spec.Resources.Limits)
	}
	maps.Copy(asked, c.Resources.Limits)
	for name, q := range asked {
		page, ok := strings.CutPrefix(string(name), corev1.ResourceHugePagesPrefix)
		if !ok {
			continue
		}
		for i := range list {
			if list[i].Pagesize == qos.KernelPageSize(page) {
				list[i].Limit = uint64(q.Value())
			}
		}
	}
	slices.SortFunc(list, func(a, b specs.LinuxHugepageLimit) int { return strings.Compare(a.Pagesize, b.Pagesize) })
	return list
}
