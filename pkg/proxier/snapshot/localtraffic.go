package snapshot

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
)

// LocalTraffic recognizes packets of this node's pods (KubeProxyConfiguration detectLocalMode) in
// one family. At most one of CIDR, NodeCIDR and Interface is set; with none, no packet counts as
// local.
type LocalTraffic struct {
	// CIDR is the pods' range (ClusterCIDR).
	CIDR netip.Prefix
	// NodeCIDR takes the range that the control plane has assigned to the node; while there is
	// none, no packet counts as local.
	NodeCIDR bool
	// Interface is a bridge's name (BridgeInterface), or, with Prefix, what the names of the pods'
	// interfaces begin with (InterfaceNamePrefix).
	Interface string
	Prefix    bool
}

// At puts the node's range in the place of NodeCIDR.
func (l LocalTraffic) At(f corev1.IPFamily, n Node) LocalTraffic {
	if l.NodeCIDR {
		return LocalTraffic{CIDR: n.PodCIDR(f)}
	}
	return l
}
