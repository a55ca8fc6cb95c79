package runtime

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
)

// ContainerRequest asks for the configuration of one attempt of a container. Nobody writes to it.
type ContainerRequest struct {
	Pod     *corev1.Pod
	HostIPs []netip.Addr // of the node, primary first; if empty, those that the builder knows
	// Static marks a pod that is defined on this node: it starts without the Services, which it may
	// not be able to read.
	Static  bool
	Runtime Pod    // what the runtime holds of the pod; its sandbox is ready
	Name    string // of the container, whatever its role
	Attempt int
	Image   Image
}
