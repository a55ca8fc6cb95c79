package snapshot

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
)

// autoscalerTaint is what the cluster autoscaler puts on a node that it is about to delete.
const autoscalerTaint = "ToBeDeletedByClusterAutoscaler"

// NodeOf is what the Node object says: all but Local and Unready. The order of addresses is that
// of kube-proxy: internal ones before external ones, and the first of a family is its primary one.
func NodeOf(n *corev1.Node) Node {
	out := Node{Name: n.Name, Zone: n.Labels[corev1.LabelTopologyZone]}
	for _, kind := range []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP} {
		for _, a := range n.Status.Addresses {
			if ip, ok := parseAddr(a.Address); ok && a.Type == kind {
				out.Addresses = append(out.Addresses, ip)
			}
		}
	}
	for _, text := range n.Spec.PodCIDRs {
		if p, ok := parsePrefix(text); ok {
			out.PodCIDRs = append(out.PodCIDRs, p)
		}
	}
	return out
}

// Eligible is false while load balancers should send no new connections to the node (KEP-3836).
func Eligible(n *corev1.Node) bool {
	for _, t := range n.Spec.Taints {
		if t.Key == autoscalerTaint {
			return false
		}
	}
	return n.DeletionTimestamp == nil
}

// PodCIDR is the node's range of pods of the family; the zero value: it has none.
func (n Node) PodCIDR(f corev1.IPFamily) netip.Prefix {
	for _, p := range n.PodCIDRs {
		if isFamily(p.Addr(), f) {
			return p
		}
	}
	return netip.Prefix{}
}

// Primary is the node's first address of the family; the zero value: it has none.
func (n Node) Primary(f corev1.IPFamily) netip.Addr {
	for _, a := range n.Addresses {
		if isFamily(a, f) {
			return a
		}
	}
	return netip.Addr{}
}
