// Package cgroup is EDGE: it keeps the control groups of pods. plan.go decides what they are called
// and what they limit, and has no effects; tree.go writes them. The hierarchy is kubelet's, which
// dashboards know by name:
//
//	<root>/kubepods/pod<uid>/<container id>             Guaranteed
//	<root>/kubepods/burstable/pod<uid>/<container id>
//	<root>/kubepods/besteffort/pod<uid>/<container id>
//
// or with the systemd driver kubepods-burstable-pod<uid>.slice and below it
// cri-containerd-<container id>.scope.
package cgroup

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/runtime/cgroup/qos"
)

// scopePrefix begins the name of a container's systemd scope.
const scopePrefix = "cri-containerd"

// Layout says how control groups are called.
type Layout struct {
	Root    string // absolute cgroup that kubepods hangs under; "/" or "" for none
	Systemd bool   // names are slices
	// PerQOS makes kubepods and its levels; without it containers are put straight into Root.
	PerQOS bool
}

// Name is a control group by its parts, from the root of the hierarchy down.
type Name []string

func (l Layout) root() Name {
	var n Name
	for _, part := range strings.Split(l.Root, "/") {
		if part != "" {
			n = append(n, part)
		}
	}
	return n
}

func (n Name) add(parts ...string) Name { return slices.Concat(n, Name(parts)) }

// Kubepods holds all pods.
func (l Layout) Kubepods() Name {
	if !l.PerQOS {
		return l.root()
	}
	return l.root().add("kubepods")
}

// Level holds the pods of a QoS class.
func (l Layout) Level(class corev1.PodQOSClass) Name {
	if !l.PerQOS || class == corev1.PodQOSGuaranteed {
		return l.Kubepods()
	}
	return l.Kubepods().add(strings.ToLower(string(class)))
}

// Pod is a pod's.
func (l Layout) Pod(pod *corev1.Pod) Name {
	if !l.PerQOS {
		return l.root()
	}
	return l.Level(qos.Class(pod)).add("pod" + string(pod.UID))
}

// PodPath is the pod's cgroup as OCI runtimes want a parent: a path, or the name of a slice.
func (l Layout) PodPath(pod *corev1.Pod) string {
	if l.Systemd {
		return l.Pod(pod).Slice()
	}
	return l.Pod(pod).Path()
}

// ContainerPath is a container's as cgroupsPath of an OCI spec: a path, or slice:prefix:name.
func (l Layout) ContainerPath(pod *corev1.Pod, id string) string {
	if l.Systemd {
		return l.Pod(pod).Slice() + ":" + scopePrefix + ":" + id
	}
	return l.Pod(pod).add(id).Path()
}

// Path is the name below a mounted hierarchy, with cgroupfs.
func (n Name) Path() string { return "/" + path.Join(n...) }

// Slice is the name as a systemd unit. A "-" in a part becomes "_", since it stands between parts.
func (n Name) Slice() string {
	if len(n) == 0 {
		return "-.slice"
	}
	parts := make([]string, 0, len(n))
	for _, part := range n {
		parts = append(parts, strings.ReplaceAll(part, "-", "_"))
	}
	return strings.Join(parts, "-") + ".slice"
}

// SlicePath is where the slice is below a mounted hierarchy: each slice is in that of its first
// parts.
func (n Name) SlicePath() string {
	p := "/"
	for i := range n {
		p = path.Join(p, n[:i+1].Slice())
	}
	return p
}

// Dir is where the group is below a mounted hierarchy.
func (l Layout) Dir(n Name) string {
	if l.Systemd {
		return n.SlicePath()
	}
	return n.Path()
}

// UID reads a pod's UID from the last part of its group's path; "" when it is not a pod's.
func (l Layout) UID(base string) types.UID {
	if !l.Systemd {
		uid, ok := strings.CutPrefix(base, "pod")
		if !ok {
			return ""
		}
		return types.UID(uid)
	}
	unit, ok := strings.CutSuffix(base, ".slice")
	i := strings.LastIndex(unit, "-pod")
	if !ok || i < 0 {
		return ""
	}
	return types.UID(strings.ReplaceAll(unit[i+len("-pod"):], "_", "-"))
}

// Limits of one control group; zero values leave a limit away.
type Limits struct {
	Shares        uint64 // cpu.shares
	Quota, Period int64  // microseconds
	Memory        int64  // bytes
	Pids          int64
	// HugePages are bytes by page size as in a manifest ("2Mi"); sizes that it does not name are
	// limited to nothing. nil leaves all sizes as they are.
	HugePages map[string]int64
}

// String is for logs and golden files.
func (l Limits) String() string {
	s := fmt.Sprintf("shares=%d", l.Shares)
	if l.Quota > 0 {
		s += fmt.Sprintf(" quota=%d/%d", l.Quota, l.Period)
	}
	if l.Memory > 0 {
		s += fmt.Sprintf(" memory=%d", l.Memory)
	}
	if l.Pids > 0 {
		s += fmt.Sprintf(" pids=%d", l.Pids)
	}
	sizes := make([]string, 0, len(l.HugePages))
	for size, bytes := range l.HugePages {
		sizes = append(sizes, fmt.Sprintf(" hugepages-%s=%d", size, bytes))
	}
	slices.Sort(sizes)
	return s + strings.Join(sizes, "")
}

// Enforce says what is limited for each pod.
type Enforce struct {
	CPUPeriod int64 // microseconds of a CPU limit's period; 0: CPU limits are not enforced
	Pids      int64 // processes of a pod; 0 or less: no limit
}

// PodLimits are those of a pod as a whole: what it requests, and its limits for what every
// container of it limits.
func PodLimits(pod *corev1.Pod, e Enforce) Limits {
	total := qos.Total(pod)
	l := Limits{Shares: qos.Shares(total.CPURequest), HugePages: map[string]int64{}, Pids: max(e.Pids, 0)}
	maps.Copy(l.HugePages, total.HugePages)
	if qos.Class(pod) == corev1.PodQOSBestEffort {
		l.Shares = qos.MinShares
		return l
	}
	l.Memory = total.Memory
	if e.CPUPeriod > 0 && total.CPULimit > 0 {
		l.Quota, l.Period = qos.Quota(total.CPULimit, e.CPUPeriod), e.CPUPeriod
	}
	return l
}

// NodeLimits are those of all pods together: what the node can give them.
func NodeLimits(allocatable corev1.ResourceList) Limits {
	return Limits{Shares: qos.Shares(allocatable.Cpu().MilliValue()), Memory: allocatable.Memory().Value()}
}

// LevelShares are the shares of a QoS class's level: what its pods request together. Guaranteed has
// no level.
func LevelShares(class corev1.PodQOSClass, pods []*corev1.Pod) uint64 {
	if class == corev1.PodQOSBestEffort {
		return qos.MinShares
	}
	milli := int64(0)
	for _, pod := range pods {
		ended := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
		if !ended && qos.Class(pod) == class {
			milli += qos.Total(pod).CPURequest
		}
	}
	return qos.Shares(milli)
}
