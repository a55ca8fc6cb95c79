// Package qos is PURE: the quality-of-service class of a pod, and the values of kernel settings
// that follow from its requests and limits.
package qos

import (
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
)

// Bounds of the kernel's CPU controller (v1 units; the OCI runtime derives v2 weights from shares).
const (
	MinShares = 2
	MaxShares = 262144
	// MinQuota is the smallest CFS quota that the kernel accepts, in microseconds.
	MinQuota = 1000
)

// Values of oom_score_adj, as kubelet sets them.
const (
	GuaranteedOOM = -997
	BestEffortOOM = 1000
)

// Class is the pod's QoS class by its spec: Guaranteed when CPU and memory of every container have
// limits equal to their requests (pod-level resources count instead where given), BestEffort when
// none asks for either, else Burstable. What the API server has written to the status wins, because
// the class of a pod never changes.
func Class(pod *corev1.Pod) corev1.PodQOSClass {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass
	}
	if r := pod.Spec.Resources; r != nil && (asks(r.Requests) || asks(r.Limits)) {
		if guaranteed(*r) {
			return corev1.PodQOSGuaranteed
		}
		return corev1.PodQOSBurstable
	}
	some, all := false, true
	for _, c := range containers(pod) {
		some = some || asks(c.Resources.Requests) || asks(c.Resources.Limits)
		all = all && guaranteed(c.Resources)
	}
	switch {
	case !some:
		return corev1.PodQOSBestEffort
	case all:
		return corev1.PodQOSGuaranteed
	default:
		return corev1.PodQOSBurstable
	}
}

func containers(pod *corev1.Pod) []corev1.Container {
	all := make([]corev1.Container, 0, len(pod.Spec.InitContainers)+len(pod.Spec.Containers))
	return append(append(all, pod.Spec.InitContainers...), pod.Spec.Containers...)
}

func asks(l corev1.ResourceList) bool { return !l.Cpu().IsZero() || !l.Memory().IsZero() }

// guaranteed reports whether CPU and memory requests equal their limits. A missing request counts
// as the limit, as in the API server's defaulting.
func guaranteed(r corev1.ResourceRequirements) bool {
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		limit, request := r.Limits[name], r.Requests[name]
		if limit.IsZero() || (!request.IsZero() && request.Cmp(limit) != 0) {
			return false
		}
	}
	return true
}

// OOMScoreAdj is the container's oom_score_adj by kubelet's rule: −997 for Guaranteed and
// node-critical pods, 1000 for BestEffort. For Burstable it is 1000 minus the requested share of
// the machine's memory in thousandths, within 3 and 999. A sidecar's value is at most the smallest
// of the regular containers. capacity is the machine's memory in bytes.
func OOMScoreAdj(pod *corev1.Pod, c *corev1.Container, capacity int64) int {
	if pod.Spec.PriorityClassName == "system-node-critical" {
		return GuaranteedOOM
	}
	switch Class(pod) {
	case corev1.PodQOSGuaranteed:
		return GuaranteedOOM
	case corev1.PodQOSBestEffort:
		return BestEffortOOM
	}
	if capacity <= 0 {
		return BestEffortOOM - 1
	}
	request := memoryRequest(c.Resources)
	if sidecar(pod, c) {
		request = max(request, smallestRequest(pod))
	}
	request += unassigned(pod)
	adj := int(1000 - 1000*request/capacity)
	return min(max(adj, 1000+GuaranteedOOM), BestEffortOOM-1)
}

func memoryRequest(r corev1.ResourceRequirements) int64 {
	if q, ok := r.Requests[corev1.ResourceMemory]; ok {
		return q.Value()
	}
	return r.Limits.Memory().Value()
}

func sidecar(pod *corev1.Pod, c *corev1.Container) bool {
	if c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways {
		return false
	}
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == c.Name {
			return true
		}
	}
	return false
}

func smallestRequest(pod *corev1.Pod) int64 {
	smallest := int64(-1)
	for _, c := range pod.Spec.Containers {
		if r := memoryRequest(c.Resources); smallest < 0 || r < smallest {
			smallest = r
		}
	}
	return max(smallest, 0)
}

// unassigned is a container's equal share of the pod-level memory request that no container's
// request uses (KEP-2837).
func unassigned(pod *corev1.Pod) int64 {
	if pod.Spec.Resources == nil || pod.Spec.Resources.Requests.Memory().IsZero() {
		return 0
	}
	rest, n := pod.Spec.Resources.Requests.Memory().Value(), int64(0)
	for _, c := range containers(pod) {
		if c.RestartPolicy == nil && !contains(pod.Spec.Containers, c.Name) {
			continue // an ordinary init container frees its memory when it ends
		}
		rest -= memoryRequest(c.Resources)
		n++
	}
	if rest <= 0 || n == 0 {
		return 0
	}
	return rest / n
}

func contains(list []corev1.Container, name string) bool {
	for i := range list {
		if list[i].Name == name {
			return true
		}
	}
	return false
}

// Shares converts millicores to cpu.shares: 1024 for one core, within the kernel's bounds.
func Shares(milli int64) uint64 {
	if milli <= 0 {
		return MinShares
	}
	return uint64(min(max(milli*1024/1000, MinShares), MaxShares))
}

// Quota converts millicores to a CFS quota in microseconds for a period in microseconds; 0 means no
// quota.
func Quota(milli, period int64) int64 {
	if milli <= 0 {
		return 0
	}
	return max(milli*period/1000, MinQuota)
}

// ContainerCPU returns the CPU request and limit of a container in millicores. A missing request is
// the limit; a missing limit is the pod-level one, if any.
func ContainerCPU(pod *corev1.Pod, c *corev1.Container) (request, limit int64) {
	l := effectiveLimit(pod, c, corev1.ResourceCPU)
	limit = l.MilliValue()
	if q, ok := c.Resources.Requests[corev1.ResourceCPU]; ok {
		return q.MilliValue(), limit
	}
	return limit, limit
}

// ContainerMemory returns the memory limit of a container in bytes, 0 for none.
func ContainerMemory(pod *corev1.Pod, c *corev1.Container) int64 {
	l := effectiveLimit(pod, c, corev1.ResourceMemory)
	return l.Value()
}

func effectiveLimit(pod *corev1.Pod, c *corev1.Container, name corev1.ResourceName) resource.Quantity {
	if q := c.Resources.Limits[name]; !q.IsZero() {
		return q
	}
	if pod.Spec.Resources != nil {
		return pod.Spec.Resources.Limits[name]
	}
	return resource.Quantity{}
}

// Totals are the requests and limits of a pod as a whole.
type Totals struct {
	CPURequest int64 // millicores
	CPULimit   int64 // millicores; 0 if any container has no limit
	Memory     int64 // limit in bytes, 0 for none
	HugePages  map[string]int64
}

// Total computes a pod's totals as the scheduler does: the sum of sidecars and main containers, or
// the largest init container if that is more, or the pod-level resources if given, plus the
// overhead of its RuntimeClass.
func Total(pod *corev1.Pod) Totals {
	pod = withRequests(pod)
	cpu, memory := true, true
	limits := resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{
		ContainerFn: func(l corev1.ResourceList, _ resourcehelper.ContainerType) {
			cpu = cpu && !l.Cpu().IsZero()
			memory = memory && !l.Memory().IsZero()
		},
	})
	if pod.Spec.Resources != nil {
		cpu = cpu || !pod.Spec.Resources.Limits.Cpu().IsZero()
		memory = memory || !pod.Spec.Resources.Limits.Memory().IsZero()
	}
	requests := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	t := Totals{CPURequest: requests.Cpu().MilliValue()}
	if cpu {
		t.CPULimit = limits.Cpu().MilliValue()
	}
	if memory {
		t.Memory = limits.Memory().Value()
	}
	for name, q := range requests {
		if size, ok := strings.CutPrefix(string(name), corev1.ResourceHugePagesPrefix); ok {
			if t.HugePages == nil {
				t.HugePages = map[string]int64{}
			}
			t.HugePages[size] = q.Value()
		}
	}
	return t
}

// withRequests sets missing requests to the limits, as the API server does; pods from files lack
// that. The pod is copied only if something is missing.
func withRequests(pod *corev1.Pod) *corev1.Pod {
	missing := func(r corev1.ResourceRequirements) bool {
		for name := range r.Limits {
			if _, ok := r.Requests[name]; !ok {
				return true
			}
		}
		return false
	}
	if !slices.ContainsFunc(containers(pod), func(c corev1.Container) bool { return missing(c.Resources) }) {
		return pod
	}
	pod = pod.DeepCopy()
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			for name, q := range list[i].Resources.Limits {
				if _, ok := list[i].Resources.Requests[name]; ok {
					continue
				}
				if list[i].Resources.Requests == nil {
					list[i].Resources.Requests = corev1.ResourceList{}
				}
				list[i].Resources.Requests[name] = q
			}
		}
	}
	return pod
}

// KernelPageSize converts a page size to the kernel's spelling: "2Mi" to "2MB", "1Gi" to "1GB"; ""
// if it is not a size.
func KernelPageSize(page string) string {
	q, err := resource.ParseQuantity(page)
	if err != nil {
		return ""
	}
	units := []string{"B", "KB", "MB", "GB"}
	v, unit := q.Value(), 0
	for v >= 1024 && v%1024 == 0 && unit < len(units)-1 {
		v, unit = v/1024, unit+1
	}
	return strconv.FormatInt(v, 10) + units[unit]
}
