package snapshot

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// claim is an address and port, or a node port, that only one Service can have.
type claim struct {
	addr     netip.Addr // invalid: a node port
	protocol corev1.Protocol
	port     uint16
}

// resolveConflicts gives each address and port to one Service. Cluster IPs come
// first, since the API server allocates them; what users write into a Service
// (load-balancer and external IPs, KEP-1672, CVE-2020-8554) goes to the oldest
// Service, so that a new one cannot take traffic away. Services are shared with
// earlier snapshots, so one that loses a claim is copied before it is changed.
func resolveConflicts(s *Snapshot) {
	order := make([]int, 0, len(s.Services))
	addresses := false
	for i, svc := range s.Services {
		if slices.ContainsFunc(svc.Ports, (*Port).ExternallyAccessible) {
			order = append(order, i)
		}
		addresses = addresses || slices.ContainsFunc(svc.Ports, func(p *Port) bool { return len(p.LoadBalancerIPs)+len(p.ExternalIPs) > 0 })
	}
	owner := map[claim]string{}
	if addresses {
		claimClusterIPs(s, owner)
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Or(s.Services[a].created.Compare(s.Services[b].created), a-b)
	})
	for _, i := range order {
		s.Services[i] = withoutTaken(s.Services[i], owner)
	}
}

func claimClusterIPs(s *Snapshot, owner map[claim]string) {
	for _, svc := range s.Services {
		for _, p := range svc.Ports {
			if c := (claim{p.ClusterIP, p.Protocol, p.Port}); owner[c] == "" {
				owner[c] = p.Name
			}
		}
	}
}

// withoutTaken is svc without what another Service owns.
func withoutTaken(svc *Service, owner map[claim]string) *Service {
	r := report{object: "Service " + portName(svc.Namespace, svc.Name, "")}
	ports := svc.Ports
	for i, p := range svc.Ports {
		taken := func(what string, a netip.Addr, port uint16) bool {
			c := claim{a, p.Protocol, port}
			other := owner[c]
			if other == "" || other == p.Name {
				owner[c] = p.Name
				return false
			}
			r.add("%s of port %s belongs to %s already", what, p.Name, other)
			return true
		}
		fixed := *p
		fixed.LoadBalancerIPs = without(p.LoadBalancerIPs, func(a netip.Addr) bool { return taken("load balancer IP "+a.String(), a, p.Port) })
		fixed.ExternalIPs = without(p.ExternalIPs, func(a netip.Addr) bool {
			return slices.Contains(fixed.LoadBalancerIPs, a) || taken("external IP "+a.String(), a, p.Port)
		})
		if p.NodePort != 0 && taken("node port "+itoa(int32(p.NodePort)), netip.Addr{}, p.NodePort) {
			fixed.NodePort = 0
		}
		if fixed.NodePort == p.NodePort && len(fixed.LoadBalancerIPs) == len(p.LoadBalancerIPs) && len(fixed.ExternalIPs) == len(p.ExternalIPs) {
			continue
		}
		if &ports[0] == &svc.Ports[0] {
			ports = slices.Clone(svc.Ports)
		}
		ports[i] = &fixed
	}
	if len(r.problems) == 0 && &ports[0] == &svc.Ports[0] {
		return svc
	}
	out := *svc
	out.Ports = ports
	out.problems = append(slices.Clone(svc.problems), r.problems...)
	return &out
}

func without(list []netip.Addr, gone func(netip.Addr) bool) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(list), gone)
}
