package status

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What kubelet writes, and others read, beside the types of k8s.io/api.
const (
	attachDetachAnnotation = "volumes.kubernetes.io/controller-managed-attach-detach"
	betaArch, betaOS       = "beta.kubernetes.io/arch", "beta.kubernetes.io/os"

	defaultMaxImages  = 50
	maxNamesPerImage  = 5
	hugePagesPrefix   = "hugepages-"
	nativeResourcesIn = "kubernetes.io/"
)

// Node returns prev with a new status computed from f: the object to compare with prev, and to
// patch when they differ. Metadata and spec stay prev's; with prev nil it returns a whole new Node,
// for the first registration. It keeps what the agent does not own in the status: conditions of
// others, volumesAttached, extended resources, config. Heartbeat times are now; a transition time
// changes only with its condition's status.
func Node(prev *corev1.Node, f Facts, now time.Time) *corev1.Node {
	node := newNode(f)
	if prev != nil {
		node = prev.DeepCopy()
	}
	s := &node.Status
	s.Capacity = capacity(s.Capacity, f.Capacity)
	s.Allocatable = allocatable(s.Capacity, f.Reserved)
	if !f.CloudAddresses || len(s.Addresses) == 0 {
		s.Addresses = slices.Clone(f.Addresses)
	}
	s.DaemonEndpoints.KubeletEndpoint.Port = f.Port
	s.NodeInfo = f.Info
	s.NodeInfo.KubeProxyVersion = "" //nolint:staticcheck // deprecated, and for that reason kept empty whatever the facts say
	s.Images = images(f.Images, f.MaxImages)
	if f.VolumesInUse != nil {
		s.VolumesInUse = slices.Sorted(slices.Values(f.VolumesInUse))
	}
	s.RuntimeHandlers = slices.SortedFunc(slices.Values(f.Runtime.Handlers), func(a, b corev1.NodeRuntimeHandler) int {
		return cmp.Compare(a.Name, b.Name)
	})
	s.Features = &corev1.NodeFeatures{SupplementalGroupsPolicy: &f.Runtime.SupplementalGroupsPolicy}
	s.DeclaredFeatures = slices.Sorted(slices.Values(f.Runtime.DeclaredFeatures))
	s.Conditions = nodeConditions(s.Conditions, f, now)
	return node
}

// newNode makes the object without its status.
func newNode(f Facts) *corev1.Node {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{
		Name:        f.Name,
		Labels:      standardLabels(f),
		Annotations: map[string]string{attachDetachAnnotation: "true"},
	}}
	for key, value := range f.Labels {
		if _, standard := node.Labels[key]; !standard {
			node.Labels[key] = value
		}
	}
	maps.Copy(node.Annotations, f.Annotations)
	node.Spec.ProviderID = f.ProviderID
	node.Spec.Taints = slices.Clone(f.Taints)
	node.Spec.Unschedulable = f.Cordoned
	if f.Cordoned {
		node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule})
	}
	return node
}

func standardLabels(f Facts) map[string]string {
	return map[string]string{
		corev1.LabelHostname:   cmp.Or(f.Hostname, f.Name),
		corev1.LabelOSStable:   f.Info.OperatingSystem,
		corev1.LabelArchStable: f.Info.Architecture,
		betaOS:                 f.Info.OperatingSystem,
		betaArch:               f.Info.Architecture,
	}
}

// reconciledLabels are overwritten on a node that exists. Other labels of the configuration are
// only added, because people relabel nodes.
func reconciledLabels() []string {
	return []string{
		corev1.LabelHostname, corev1.LabelOSStable, corev1.LabelArchStable, betaOS, betaArch,
		corev1.LabelTopologyZone, corev1.LabelTopologyRegion, corev1.LabelInstanceTypeStable,
	}
}

// Register returns an existing node with the metadata and spec that the agent wants when it starts
// (wanted is made by Node with prev nil), and whether they differ from what it has. Taints and
// cordons of an existing node belong to the cluster's people and controllers: they stay.
func Register(existing, wanted *corev1.Node) (node *corev1.Node, changed bool) {
	node = existing.DeepCopy()
	if node.Labels == nil {
		node.Labels = map[string]string{}
	}
	for key, value := range wanted.Labels {
		if _, there := node.Labels[key]; !there || slices.Contains(reconciledLabels(), key) {
			node.Labels[key] = value
		}
	}
	if node.Annotations == nil {
		node.Annotations = map[string]string{}
	}
	maps.Copy(node.Annotations, wanted.Annotations)
	if node.Spec.ProviderID == "" { // the API server lets it be set once
		node.Spec.ProviderID = wanted.Spec.ProviderID
	}
	changed = !maps.Equal(existing.Labels, node.Labels) || !maps.Equal(existing.Annotations, node.Annotations) ||
		existing.Spec.ProviderID != node.Spec.ProviderID
	return node, changed
}

// capacity is what the machine has, plus the extended resources that others advertise in the
// status.
func capacity(prev, found corev1.ResourceList) corev1.ResourceList {
	out := corev1.ResourceList{}
	for name, quantity := range prev {
		if strings.Contains(string(name), "/") && !strings.Contains(string(name), nativeResourcesIn) {
			out[name] = quantity
		}
	}
	maps.Copy(out, found)
	return out
}

// allocatable is capacity minus what is reserved, never below zero. Huge pages are taken out of
// memory, which pods cannot use for anything else.
func allocatable(capacity, reserved corev1.ResourceList) corev1.ResourceList {
	out := corev1.ResourceList{}
	for name, quantity := range capacity {
		left := quantity.DeepCopy()
		if r, ok := reserved[name]; ok {
			left.Sub(r)
		}
		out[name] = atLeastZero(left)
	}
	memory, ok := out[corev1.ResourceMemory]
	if !ok {
		return out
	}
	for name, quantity := range capacity {
		if strings.HasPrefix(string(name), hugePagesPrefix) {
			memory.Sub(quantity)
		}
	}
	out[corev1.ResourceMemory] = atLeastZero(memory)
	return out
}

func atLeastZero(q resource.Quantity) resource.Quantity {
	if q.Sign() < 0 {
		return *resource.NewQuantity(0, q.Format)
	}
	return q
}

// images returns the largest ones first, each with a few of its names, so that the object stays
// small on a node with many.
func images(all []corev1.ContainerImage, limit int) []corev1.ContainerImage {
	sorted := slices.SortedStableFunc(slices.Values(all), func(a, b corev1.ContainerImage) int {
		return cmp.Or(cmp.Compare(b.SizeBytes, a.SizeBytes), slices.Compare(a.Names, b.Names))
	})
	if limit == 0 {
		limit = defaultMaxImages
	}
	if limit > 0 && len(sorted) > limit {
		sorted = sorted[:limit]
	}
	for i := range sorted {
		sorted[i].Names = sorted[i].Names[:min(len(sorted[i].Names), maxNamesPerImage)]
	}
	return sorted
}
