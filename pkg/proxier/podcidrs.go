package proxier

import (
	"log/slog"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// PodCIDRs reports that the node's range of pods is missing, where detectLocalMode NodeCIDR needs
// it.
type PodCIDRs struct {
	// Needed is false in the other modes, in which nothing is reported.
	Needed bool
	// Primary is the family whose range is needed.
	Primary func() corev1.IPFamily
	Log     *slog.Logger

	missing atomic.Bool
}

const noPodCIDR = "The node has no podCIDR, which detectLocalMode NodeCIDR needs: no traffic counts as that of its pods until the control plane assigns one " +
	"(kube-controller-manager --allocate-node-cidrs), or detectLocalMode is changed"

// NodeChanged logs when the range is missing, and when it has been assigned.
func (p *PodCIDRs) NodeChanged(n snapshot.Node) {
	missing := p.Needed && !n.PodCIDR(p.Primary()).IsValid()
	if p.missing.Swap(missing) == missing {
		return
	}
	if missing {
		p.Log.Warn(noPodCIDR)
	} else {
		p.Log.Info("The control plane assigned the node's podCIDR", "podCIDRs", n.PodCIDRs)
	}
}

// Problem is for a status; "": there is none.
func (p *PodCIDRs) Problem() string {
	if p.missing.Load() {
		return noPodCIDR
	}
	return ""
}
