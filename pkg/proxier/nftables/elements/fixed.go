package elements

import (
	"fmt"
	"net/netip"
	"slices"
)

// Priorities of the hooks, from linux/netfilter_ipv4.h.
const (
	dstnat = -100
	filter = 0
	srcnat = 100
	// preDNAT is before packets to Services get another destination.
	preDNAT = dstnat - 10
)

// fixed are the chains that exist without any Service.
func fixed(s nodeOptions) []*Chain {
	isNew := func(chain string) string { return "ct state new jump " + chain }
	ip := s.ip()
	forward := []string{isNew(chainEndpointsCheck), isNew(chainClusterIPs)}
	if !s.TCPBeLiberal {
		// What conntrack cannot place is not translated; it would reach the client from an
		// unknown address and reset its connection.
		forward = append([]string{"ct state invalid drop"}, forward...)
	}
	to := ip + " daddr . meta l4proto . th dport vmap @"
	portOnly := s.toNodePorts() + " meta l4proto . th dport vmap @"
	reject := []string{"reject"}
	if s.ipv6() {
		// To an ICMPv6 error a connecting socket of Linux listens only when it
		// sends again, a second later; to a reset at once.
		reject = []string{"meta l4proto tcp reject with tcp reset", "reject"}
	}
	return []*Chain{
		{Name: chainPreroutingPreDNAT, Base: &Base{"filter", "prerouting", preDNAT}, Rules: []string{isNew(chainFirewall)}},
		{Name: chainOutputPreDNAT, Base: &Base{"filter", "output", preDNAT}, Rules: []string{isNew(chainFirewall)}},
		{Name: chainInput, Base: &Base{"filter", "input", filter}, Rules: []string{isNew(chainNodePortsCheck), isNew(chainEndpointsCheck)}},
		{Name: chainForward, Base: &Base{"filter", "forward", filter}, Rules: forward},
		{Name: chainOutput, Base: &Base{"filter", "output", filter}, Rules: []string{isNew(chainEndpointsCheck), isNew(chainClusterIPs)}},
		{Name: chainNATPrerouting, Base: &Base{"nat", "prerouting", dstnat}, Rules: []string{"jump " + chainServices}},
		{Name: chainNATOutput, Base: &Base{"nat", "output", dstnat}, Rules: []string{"jump " + chainServices}},
		{Name: chainNATPostrouting, Base: &Base{"nat", "postrouting", srcnat}, Rules: []string{"jump " + chainMasquerading}},
		{Name: chainServices, Rules: append(masqueradeClusterIPs(s), to+mapServiceIPs, portOnly+mapNodePorts)},
		{Name: chainEndpointsCheck, Rules: []string{to + mapNoEndpoints}},
		{Name: chainNodePortsCheck, Rules: []string{portOnly + mapNoNodePorts}},
		{Name: chainClusterIPs, Rules: []string{ip + " daddr @" + setClusterIPs + " goto " + chainReject}},
		{Name: chainFirewall, Rules: []string{to + mapFirewallIPs}},
		{Name: chainReject, Rules: reject},
		{Name: chainMasquerading, Rules: masquerading(s)},
	}
}

// masqueradeClusterIPs marks what comes from outside of the cluster to a cluster IP: a client that
// routes to cluster IPs through this node must get its answer through it too.
func masqueradeClusterIPs(s nodeOptions) []string {
	rule := s.ip() + " daddr @" + setClusterIPs + " "
	if s.MasqueradeAll {
		return []string{rule + s.mark()}
	}
	if not := s.local("!= "); not != "" {
		return []string{rule + not + " " + s.mark()}
	}
	return nil
}

// masquerading rewrites the source of marked packets, and takes the mark off, so that a packet
// that comes by again, encapsulated, is not rewritten twice. A pod that reached itself is
// masqueraded, or the answer would never leave it.
func masquerading(s nodeOptions) []string {
	ip := s.ip()
	return []string{
		fmt.Sprintf("meta mark and %#x != 0 meta mark set meta mark xor %#x masquerade fully-random", s.bit(), s.bit()),
		"ct status dnat " + ip + " saddr . " + ip + " daddr . meta l4proto . th dport @" + setHairpin + " masquerade fully-random",
	}
}

// fixedSets are the sets and maps that exist without any Service, without elements.
func fixedSets(s nodeOptions) []*Set {
	address := s.addrType()
	place := address + " . inet_proto . inet_service"
	out := []*Set{
		{Name: mapServiceIPs, Map: true, Type: place, Comment: "ClusterIP, ExternalIP and LoadBalancer IP traffic"},
		{Name: mapNodePorts, Map: true, Type: "inet_proto . inet_service", Comment: "NodePort traffic"},
		{Name: mapNoEndpoints, Map: true, Type: place, Comment: "vmap to drop or reject packets to services with no endpoints"},
		{Name: mapNoNodePorts, Map: true, Type: "inet_proto . inet_service", Comment: "vmap to drop or reject packets to service nodeports with no endpoints"},
		{Name: mapFirewallIPs, Map: true, Type: place, Comment: "destinations that are subject to LoadBalancerSourceRanges"},
		{Name: setClusterIPs, Type: address, Comment: "Active ClusterIPs"},
		{Name: setHairpin, Type: address + " . " + place, Comment: "service hairpin connections"},
	}
	if !s.nodePorts.All {
		ports := &Set{Name: setNodePortIPs, Type: address, Interval: true, Comment: "IPs that accept NodePort traffic", Elements: map[string]Element{}}
		for _, p := range widest(s.nodePorts.Ranges) {
			key := plain(p)
			ports.Elements[key] = Element{Key: key}
		}
		out = append(out, ports)
	}
	return out
}

// widest leaves out ranges that lie within others: nftables refuses overlaps.
func widest(ranges []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range ranges {
		inside := func(o netip.Prefix) bool { return o.Bits() < p.Bits() && o.Overlaps(p) }
		if !slices.ContainsFunc(ranges, inside) && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

// plain is a range as nftables prints it: without a length if it is one address.
func plain(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}
