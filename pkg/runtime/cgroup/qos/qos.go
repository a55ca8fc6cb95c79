// Package qos is PURE: the quality-of-service class of a pod, and the values of kernel settings
// that follow from its requests and limits.
package qos

import (
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
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

// OOMScoreAdj is the container's oom_score_adj by kubelet's rule: −997 for Guaranteed and
// node-critical pods, 1000 for BestEffort. For Burstable it is 1000 minus the requested share of
// the machine's memory in thousandths, within 3 and 999. A sidecar's value is at most the smallest
// of the regular containers. capacity is the machine's memory in bytes.
func OOMScoreAdj(pod *corev1.Pod, c *corev1.Container, capacity int64) int {
	if pod.Spec.PriorityClassName == "system-node-critical" {
		return GuaranteedOOM
	}
	switch podspec.QOS(pod) {
	case corev1.PodQOSGuaranteed:
		return GuaranteedOOM
	case corev1.PodQOSBestEffort:
		return BestEffortOOM
	}
	if capacity <= 0 {
		return BestEffortOOM - 1
	}
	request := memoryRequest(c.Resources)
	if _, role := podspec.Find(pod, c.Name); role == podspec.Sidecar {
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
	for role, c := range podspec.Containers(pod) {
		if !role.Serves() {
			continue // an init container gives its memory back when it ends
		}
		rest -= memoryRequest(c.Resources)
		n++
	}
	if rest <= 0 || n == 0 {
		return 0
	}
	return rest / n
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
	complete := true
	for _, c := range podspec.Containers(pod) {
		for name := range c.Resources.Limits {
			_, ok := c.Resources.Requests[name]
			complete = complete && ok
		}
	}
	if complete {
		return pod
	}
	pod = pod.DeepCopy()
	for _, c := range podspec.Containers(pod) {
		for name, q := range c.Resources.Limits {
			if _, ok := c.Resources.Requests[name]; ok {
				continue
			}
			if c.Resources.Requests == nil {
				c.Resources.Requests = corev1.ResourceList{}
			}
			c.Resources.Requests[name] = q
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
