package status

import (
	corev1 "k8s.io/api/core/v1"
)

// Facts are everything that Node needs and cannot know: what edges found out about the machine, and
// what the configuration says about the node.
type Facts struct {
	Name        string // of the Node object
	Hostname    string // value of the label kubernetes.io/hostname; "" for Name
	ProviderID  string
	Labels      map[string]string // of the configuration, beside the standard ones
	Annotations map[string]string
	Taints      []corev1.Taint // given to a node that registers for the first time
	Cordoned    bool           // registers as unschedulable (registerSchedulable: false)

	Addresses []corev1.NodeAddress
	// CloudAddresses: a cloud controller manager sets the addresses; Addresses count only until it
	// has.
	CloudAddresses bool
	Capacity       corev1.ResourceList // cpu, memory, ephemeral-storage, hugepages-*, pods
	// Reserved is withheld from pods: system and kube reservation and the hard eviction thresholds,
	// per resource.
	Reserved corev1.ResourceList
	// Info is sent as it is, but for OperatingSystem and Architecture, which also become labels
	// ("linux", "amd64").
	Info corev1.NodeSystemInfo
	Port int32 // of the node API, 10250

	Images     []corev1.ContainerImage // every image of the store, in any order
	MaxImages  int                     // 0 for 50, negative for all
	Runtime    RuntimeFacts
	Conditions Conditions
	// VolumesInUse replaces what the status holds; nil leaves it as it is.
	VolumesInUse []corev1.UniqueVolumeName
}

// RuntimeFacts are the features of the container runtime.
type RuntimeFacts struct {
	Handlers                 []corev1.NodeRuntimeHandler // "" is the default handler
	SupplementalGroupsPolicy bool
	// DeclaredFeatures as in KEP-5328, in any order; nil to declare none.
	DeclaredFeatures []string
}

// Conditions decide the node's conditions.
type Conditions struct {
	MemoryPressure, DiskPressure, PIDPressure bool
	// RuntimeError is why the container runtime cannot be used, "" if it can.
	RuntimeError string
	// NetworkError is why no pod network can be set up ("no CNI configuration in …"), "" if one
	// can.
	NetworkError string
	ShuttingDown bool
	// Other has further reasons for not being ready, one a sentence without full stop.
	Other []string
}
