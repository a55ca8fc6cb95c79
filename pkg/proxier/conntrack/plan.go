package conntrack

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// Flow is one UDP flow of conntrack: where the client sent it, and who answers.
type Flow struct {
	OrigDst, ReplySrc netip.AddrPort
}

// Plan knows which flows are stale: those sent to a Service's address that were
// translated to an endpoint which does not serve, or not translated although there
// are endpoints now. Unlike with TCP, nothing ends them: a client that goes on
// sending keeps them alive, and their packets never traverse the new rules.
//
// It is made from the whole desired state, including Services without endpoints and
// deleted ones (kubernetes/kubernetes #139628). Policies and topology do not matter:
// they choose for new flows only.
type Plan struct {
	addresses map[netip.AddrPort]map[netip.AddrPort]bool // address of a Service → serving endpoints
	nodePorts map[uint16]map[netip.AddrPort]bool
	local     map[netip.Addr]bool
}

// Past is what was programmed before now.
type Past struct {
	// Snapshot is the previous one; nil: there was none.
	Snapshot *snapshot.Snapshot
	// Frontends were in the kernel's rules when this process started: nothing
	// else names Services that were deleted while no agent ran.
	Frontends []snapshot.Frontend
}

// NewPlan makes the plan for now. Addresses that only the past had belong to a
// deleted Service. Flows to a node port count only if they go to one of the
// addresses on which node ports answer: others go to other hosts or programs.
func NewPlan(past Past, now *snapshot.Snapshot) *Plan {
	p := &Plan{
		addresses: map[netip.AddrPort]map[netip.AddrPort]bool{},
		nodePorts: map[uint16]map[netip.AddrPort]bool{},
		local:     map[netip.Addr]bool{},
	}
	for _, a := range now.NodePortAddresses() {
		p.local[a] = true
	}
	for port := range udpPorts(now) {
		serving := map[netip.AddrPort]bool{}
		for _, e := range port.Endpoints {
			if e.Serving {
				serving[e.AddrPort] = true
			}
		}
		p.add(port, serving)
	}
	if past.Snapshot != nil {
		for port := range udpPorts(past.Snapshot) {
			p.add(port, nil)
		}
	}
	for _, f := range past.Frontends {
		p.addDeleted(f)
	}
	return p
}

// addDeleted adds an address, or a node port, without endpoints, unless a Service has it now.
func (p *Plan) addDeleted(f snapshot.Frontend) {
	if f.Protocol != corev1.ProtocolUDP {
		return
	}
	if f.Addr == (netip.Addr{}) {
		if _, known := p.nodePorts[f.Port]; !known {
			p.nodePorts[f.Port] = nil
		}
		return
	}
	at := netip.AddrPortFrom(f.Addr, f.Port)
	if _, known := p.addresses[at]; !known {
		p.addresses[at] = nil
	}
}

// add sets the endpoints behind a port's addresses, unless they are known.
func (p *Plan) add(port *snapshot.Port, serving map[netip.AddrPort]bool) {
	for _, a := range slices.Concat([]netip.Addr{port.ClusterIP}, port.LoadBalancerIPs, port.ExternalIPs) {
		at := netip.AddrPortFrom(a, port.Port)
		if _, known := p.addresses[at]; !known {
			p.addresses[at] = serving
		}
	}
	if port.NodePort != 0 {
		if _, known := p.nodePorts[port.NodePort]; !known {
			p.nodePorts[port.NodePort] = serving
		}
	}
}

// Empty says that no flow can be stale.
func (p *Plan) Empty() bool { return len(p.addresses) == 0 && len(p.nodePorts) == 0 }

// Stale says whether a flow has to be deleted.
func (p *Plan) Stale(f Flow) bool {
	serving, ours := p.addresses[f.OrigDst]
	if !ours && p.local[f.OrigDst.Addr()] {
		serving, ours = p.nodePorts[f.OrigDst.Port()]
	}
	if !ours || serving[f.ReplySrc] {
		return false
	}
	untranslated := f.ReplySrc == f.OrigDst
	return len(serving) > 0 || !untranslated
}

// Changed says whether UDP ports differ between two snapshots, so that there may be
// stale flows. If prev is nil, there may be.
func Changed(prev, now *snapshot.Snapshot) bool {
	if prev == nil {
		return true
	}
	before := map[*snapshot.Port]bool{}
	for port := range udpPorts(prev) {
		before[port] = true
	}
	n := 0
	for port := range udpPorts(now) {
		if !before[port] {
			return true
		}
		n++
	}
	return n != len(before)
}

func udpPorts(s *snapshot.Snapshot) func(yield func(*snapshot.Port) bool) {
	return func(yield func(*snapshot.Port) bool) {
		for _, svc := range s.Services {
			for _, port := range svc.Ports {
				if port.Protocol == corev1.ProtocolUDP && !yield(port) {
					return
				}
			}
		}
	}
}
