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

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime/cgroup/qos"
)

// scopePrefix is the prefix of a container's systemd scope.
const scopePrefix = "cri-containerd"

// Layout names the control groups.
type Layout struct {
	Root    string // absolute parent cgroup of kubepods; "/" or "" for none
	Systemd bool   // use systemd slices
	// PerQOS creates kubepods and its QoS levels; without it pods are direct children of Root.
	PerQOS bool
}

// Name is the path of a control group, part by part from the root of the hierarchy.
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

// Kubepods is the group of all pods.
func (l Layout) Kubepods() Name {
	if !l.PerQOS {
		return l.root()
	}
	return l.root().add("kubepods")
}

// Level is the group of all pods of a QoS class.
func (l Layout) Level(class corev1.PodQOSClass) Name {
	if !l.PerQOS || class == corev1.PodQOSGuaranteed {
		return l.Kubepods()
	}
	return l.Kubepods().add(strings.ToLower(string(class)))
}

// Pod is the group of one pod.
func (l Layout) Pod(pod *corev1.Pod) Name {
	if !l.PerQOS {
		return l.root()
	}
	return l.Level(podspec.QOS(pod)).add("pod" + string(pod.UID))
}

// PodPath is the pod's group as the parent in an OCI spec: a path, or the name of a slice.
func (l Layout) PodPath(pod *corev1.Pod) string {
	if l.Systemd {
		return l.Pod(pod).Slice()
	}
	return l.Pod(pod).Path()
}

// ContainerPath is a container's cgroupsPath in an OCI spec: a path, or slice:prefix:name.
func (l Layout) ContainerPath(pod *corev1.Pod, id string) string {
	if l.Systemd {
		return l.Pod(pod).Slice() + ":" + scopePrefix + ":" + id
	}
	return l.Pod(pod).add(id).Path()
}

// Path is the group's path below a mounted hierarchy with cgroupfs.
func (n Name) Path() string { return "/" + path.Join(n...) }

// Slice is the name of the systemd unit. A "-" inside of a part becomes "_", because "-" separates
// parts.
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

// SlicePath is the slice's path below a mounted hierarchy. Each slice lies in its parent's folder.
func (n Name) SlicePath() string {
	p := "/"
	for i := range n {
		p = path.Join(p, n[:i+1].Slice())
	}
	return p
}

// Dir is the group's path below a mounted hierarchy.
func (l Layout) Dir(n Name) string {
	if l.Systemd {
		return n.SlicePath()
	}
	return n.Path()
}

// UID returns the pod UID in the last part of a group's path, or "" if the group is not a pod's.
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

// Limits of one control group; a zero value sets no limit.
type Limits struct {
	Shares        uint64 // cpu.shares
	Quota, Period int64  // microseconds
	Memory        int64  // bytes
	Pids          int64
	// HugePages maps page sizes as in a manifest ("2Mi") to bytes. Sizes that are missing get a
	// limit of 0; a nil map leaves all limits as they are.
	HugePages map[string]int64
}

// String formats the limits for logs and golden files.
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

// Enforce says which limits pods get.
type Enforce struct {
	CPUPeriod int64 // CFS period in microseconds; 0: CPU limits are not enforced
	Pids      int64 // processes of a pod; 0 or less: no limit
}

// PodLimits returns the limits of the pod's group: its total requests, and the total limit of each
// resource that all of its containers limit.
func PodLimits(pod *corev1.Pod, e Enforce) Limits {
	total := qos.Total(pod)
	l := Limits{Shares: qos.Shares(total.CPURequest), HugePages: map[string]int64{}, Pids: max(e.Pids, 0)}
	maps.Copy(l.HugePages, total.HugePages)
	if podspec.QOS(pod) == corev1.PodQOSBestEffort {
		l.Shares = qos.MinShares
		return l
	}
	l.Memory = total.Memory
	if e.CPUPeriod > 0 && total.CPULimit > 0 {
		l.Quota, l.Period = qos.Quota(total.CPULimit, e.CPUPeriod), e.CPUPeriod
	}
	return l
}

// NodeLimits returns the limits of kubepods: what the node can allocate.
func NodeLimits(allocatable corev1.ResourceList) Limits {
	return Limits{Shares: qos.Shares(allocatable.Cpu().MilliValue()), Memory: allocatable.Memory().Value()}
}

// LevelShares returns the shares of a QoS level: the sum of its pods' requests. Guaranteed has no
// level.
func LevelShares(class corev1.PodQOSClass, pods []*corev1.Pod) uint64 {
	if class == corev1.PodQOSBestEffort {
		return qos.MinShares
	}
	milli := int64(0)
	for _, pod := range pods {
		if !podspec.Terminal(pod.Status.Phase) && podspec.QOS(pod) == class {
			milli += qos.Total(pod).CPURequest
		}
	}
	return qos.Shares(milli)
}
