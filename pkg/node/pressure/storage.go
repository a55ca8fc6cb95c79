// Package pressure is PURE: what the node must take back from its pods. It compares measurements
// of the machine with the eviction thresholds (threshold.go), and what a pod takes of the node's
// disk with the pod's own limits (storage.go). Order, reasons and messages are kubelet's
// (pkg/kubelet/eviction), which people search for.
package pressure

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
)

// The limits of a pod, by the names that kubelet's metric has for them: sizeLimit of an emptyDir,
// ephemeral-storage of all containers and of one. The kernel enforces none of them.
const (
	EmptyDir  = "emptydirfs.limit"
	Pod       = "ephemeralpodfs.limit"
	Container = "ephemeralcontainerfs.limit"
)

// Eviction says why and how a pod is ended.
type Eviction struct {
	Signal string // the limit that was exceeded
	podspec.Termination
}

// systemCritical is the least priority of pods that are never evicted
// (scheduling.SystemCriticalPriority).
const systemCritical = 2_000_000_000

// Usage is what a pod takes of the disk, in bytes.
type Usage struct {
	Containers map[string]int64 // writable layer and logs, by container, init containers included
	Volumes    map[string]int64 // of those that Counted names
	// Files that the node keeps for the pod and containers can write to: /etc/hosts, termination
	// messages.
	Files int64
}

// Limited says whether the pod has storage limits that are enforced. Static and system critical
// pods are never evicted: nothing would bring them back, or others depend on them.
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

// Counted says whether a volume's disk usage counts as the pod's.
func Counted(v *corev1.Volume) bool {
	return v.ConfigMap != nil || v.EmptyDir != nil && v.EmptyDir.Medium == corev1.StorageMediumDefault
}

// CheckStorage returns the eviction of a pod that has exceeded one of its limits; nil when it has
// not.
func CheckStorage(pod *corev1.Pod, used Usage) *Eviction {
	total := used.Files
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if q := sizeLimit(v); q != nil && used.Volumes[v.Name] > q.Value() {
			return evicted(EmptyDir, "Usage of EmptyDir volume %q exceeds the limit %q. ", v.Name, q.String())
		}
		total += used.Volumes[v.Name]
	}
	for _, bytes := range used.Containers {
		total += bytes
	}
	if q, limited := podLimit(pod); limited && total > q.Value() {
		return evicted(Pod, "Pod ephemeral local storage usage exceeds the total limit of containers %s. ", q.String())
	}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		if q := c.Resources.Limits.StorageEphemeral(); !q.IsZero() && used.Containers[c.Name] > q.Value() {
			return evicted(Container, "Container %s exceeded its local ephemeral storage limit %q. ", c.Name, q.String())
		}
	}
	return nil
}

// evicted gives the pod one second: it goes on filling the disk meanwhile.
func evicted(signal, format string, args ...any) *Eviction {
	grace := time.Second
	return &Eviction{signal, podspec.Termination{Reason: "Evicted", Message: fmt.Sprintf(format, args...), Grace: &grace}}
}

// podLimit is what all containers may use together, if one of them has a limit.
func podLimit(pod *corev1.Pod) (resource.Quantity, bool) {
	q, limited := resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{})[corev1.ResourceEphemeralStorage]
	return q, limited
}

// sizeLimit of an emptyDir on disk; nil for none. One in memory is limited by its file system.
func sizeLimit(v *corev1.Volume) *resource.Quantity {
	if v.EmptyDir == nil || v.EmptyDir.Medium != corev1.StorageMediumDefault || v.EmptyDir.SizeLimit == nil || v.EmptyDir.SizeLimit.Sign() <= 0 {
		return nil
	}
	return v.EmptyDir.SizeLimit
}
