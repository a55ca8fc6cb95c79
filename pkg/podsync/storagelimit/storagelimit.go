// Package storagelimit is PURE: whether a pod has used more of the node's disk than its spec
// allows: sizeLimit of an emptyDir, ephemeral-storage limits of containers. Nothing in the kernel
// holds a pod to these, so the node ends pods that went beyond. Order, reason and messages are
// kubelet's (pkg/kubelet/eviction), which people search for.
package storagelimit

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
)

// The limits, by the names that kubelet's metric has for them.
const (
	EmptyDir  = "emptydirfs.limit"
	Pod       = "ephemeralpodfs.limit"
	Container = "ephemeralcontainerfs.limit"
)

// systemCritical is the least priority of pods that are never ended so
// (scheduling.SystemCriticalPriority).
const systemCritical = 2_000_000_000

// Usage is what a pod takes of the disk, in bytes.
type Usage struct {
	Containers map[string]int64 // writable layer and logs, by container, init containers included
	Volumes    map[string]int64 // of those that Counted names
	// what the node keeps for the pod and containers can write to: /etc/hosts, termination messages
	Files int64
}

// Limited says whether there is anything to hold the pod to. Static and system critical pods are
// never ended: nothing would bring them back, or others depend on them.
func Limited(pod *corev1.Pod, static bool) bool {
	if static || pod.Spec.Priority != nil && *pod.Spec.Priority >= systemCritical {
		return false
	}
	if _, limited := podLimit(pod); limited {
		return true
	}
	for i := range pod.Spec.Volumes {
		if sizeLimit(&pod.Spec.Volumes[i]) != nil {
			return true
		}
	}
	return false
}

// Counted says whether a volume takes up room on the node's disk that is the pod's.
func Counted(v *corev1.Volume) bool {
	return v.ConfigMap != nil || v.EmptyDir != nil && v.EmptyDir.Medium == corev1.StorageMediumDefault
}

// Check says which limit the pod is beyond, and how it ends for that; "" and nil for none.
func Check(pod *corev1.Pod, used Usage) (limit string, end *podspec.Termination) {
	total := used.Files
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if q := sizeLimit(v); q != nil && used.Volumes[v.Name] > q.Value() {
			return EmptyDir, evicted("Usage of EmptyDir volume %q exceeds the limit %q. ", v.Name, q.String())
		}
		total += used.Volumes[v.Name]
	}
	for _, bytes := range used.Containers {
		total += bytes
	}
	if q, limited := podLimit(pod); limited && total > q.Value() {
		return Pod, evicted("Pod ephemeral local storage usage exceeds the total limit of containers %s. ", q.String())
	}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		if q := c.Resources.Limits.StorageEphemeral(); !q.IsZero() && used.Containers[c.Name] > q.Value() {
			return Container, evicted("Container %s exceeded its local ephemeral storage limit %q. ", c.Name, q.String())
		}
	}
	return "", nil
}

func evicted(format string, args ...any) *podspec.Termination {
	grace := time.Second // what it is using up is going on meanwhile
	return &podspec.Termination{Reason: "Evicted", Message: fmt.Sprintf(format, args...), Grace: &grace}
}

// podLimit is what all containers may use together, if they have limits.
func podLimit(pod *corev1.Pod) (resource.Quantity, bool) {
	q, limited := resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{})[corev1.ResourceEphemeralStorage]
	return q, limited
}

// sizeLimit of an emptyDir on disk; nil for none. Those in memory are as large as they may be from
// the start.
func sizeLimit(v *corev1.Volume) *resource.Quantity {
	if v.EmptyDir == nil || v.EmptyDir.Medium != corev1.StorageMediumDefault || v.EmptyDir.SizeLimit == nil || v.EmptyDir.SizeLimit.Sign() <= 0 {
		return nil
	}
	return v.EmptyDir.SizeLimit
}
