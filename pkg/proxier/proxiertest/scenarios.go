package proxiertest

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
)

// check is one connection and its expected result.
type check struct {
	from     Place
	protocol corev1.Protocol
	to       func(f corev1.IPFamily) netip.AddrPort
	lands    []Place // all of them and no other; nil: none, see verdict
	masq     bool    // the endpoint sees an address of the node
	verdict  Verdict // of those that do not land
	sticky   bool    // lands on one of lands only
	// sourceFree: the address that the endpoint sees does not matter.
	sourceFree bool
	only       corev1.IPFamily // empty: both families
}

// scenario is one state of the API and the checks that hold in it.
type scenario struct {
	name   string
	svc    func(*corev1.Service)
	eps    []ep
	checks []check
}

const (
	clusterPort = 80
	nodePort    = 30080
)

func vip(f corev1.IPFamily) netip.Addr {
	if f == corev1.IPv6Protocol {
		return netip.MustParseAddr("fd00:96::10")
	}
	return netip.MustParseAddr("10.96.0.10")
}

func balancer(f corev1.IPFamily) netip.Addr {
	if f == corev1.IPv6Protocol {
		return netip.MustParseAddr("2001:db8:100::1")
	}
	return netip.MustParseAddr("198.51.100.1")
}

func external(f corev1.IPFamily) netip.Addr {
	if f == corev1.IPv6Protocol {
		return netip.MustParseAddr("2001:db8:100::2")
	}
	return netip.MustParseAddr("198.51.100.2")
}

func toVIP(f corev1.IPFamily) netip.AddrPort { return netip.AddrPortFrom(vip(f), clusterPort) }
func toUDP(f corev1.IPFamily) netip.AddrPort { return netip.AddrPortFrom(vip(f), 53) }
func toBalancer(f corev1.IPFamily) netip.AddrPort {
	return netip.AddrPortFrom(balancer(f), clusterPort)
}

func toExternal(f corev1.IPFamily) netip.AddrPort {
	return netip.AddrPortFrom(external(f), clusterPort)
}

func toNodePort(f corev1.IPFamily) netip.AddrPort {
	return netip.AddrPortFrom(Address(Node, f), nodePort)
}

const (
	tcp = corev1.ProtocolTCP
	udp = corev1.ProtocolUDP
)

// where is a check of TCP that lands on places.
func where(from Place, to func(corev1.IPFamily) netip.AddrPort, masq bool, lands ...Place) check {
	return check{from: from, protocol: tcp, to: to, lands: lands, masq: masq}
}

// ends is a check of TCP that does not land.
func ends(from Place, to func(corev1.IPFamily) netip.AddrPort, v Verdict) check {
	return check{from: from, protocol: tcp, to: to, verdict: v}
}

func clusterIPScenarios() []scenario {
	all := []Place{Pod1, Pod2, Remote}
	return []scenario{
		{name: "cluster IP with three endpoints", eps: ready(all...), checks: []check{
			where(Pod1, toVIP, false, all...), where(Client, toVIP, true, all...), where(Node, toVIP, false, all...).anySource(),
			{from: Pod2, protocol: udp, to: toUDP, lands: all, masq: false},
		}},
		{name: "cluster IP with one endpoint", eps: ready(Remote), checks: []check{where(Pod1, toVIP, false, Remote), where(Node, toVIP, false, Remote).anySource()}},
		{name: "a pod reaches itself and is masqueraded", eps: ready(Pod1), checks: []check{where(Pod1, toVIP, true, Pod1), where(Pod2, toVIP, false, Pod1)}},
		{name: "no endpoints are rejected", checks: []check{
			ends(Pod1, toVIP, Rejected), ends(Node, toVIP, Rejected), ends(Client, toVIP, Rejected), {from: Pod1, protocol: udp, to: toUDP, verdict: Rejected},
		}},
		{name: "endpoints that are not ready are as none", eps: []ep{{at: Pod1}, {at: Remote}}, checks: []check{ends(Pod2, toVIP, Rejected)}},
		{
			name: "serving terminating endpoints are the last resort", eps: []ep{{at: Pod1, serving: true, terminating: true}, {at: Pod2, terminating: true}},
			checks: []check{where(Node, toVIP, false, Pod1).anySource()},
		},
		{
			name: "ready endpoints go before terminating ones", eps: append(ready(Remote), ep{at: Pod1, serving: true, terminating: true}),
			checks: []check{where(Pod2, toVIP, false, Remote)},
		},
		{name: "internal policy Local stays here", svc: internalLocal, eps: ready(all...), checks: []check{where(Node, toVIP, false, Pod1, Pod2).anySource()}},
		{name: "internal policy Local without a local endpoint drops", svc: internalLocal, eps: ready(Remote), checks: []check{ends(Pod1, toVIP, Dropped)}},
		{name: "session affinity", svc: affinity, eps: ready(Pod1, Pod2, Remote), checks: []check{
			{from: Node, protocol: tcp, to: toVIP, lands: all, sticky: true}, {from: Pod1, protocol: tcp, to: toVIP, lands: all, sticky: true},
		}},
		{name: "zone hints", eps: []ep{{at: Pod1, ready: true, zone: "z1"}, {at: Remote, ready: true, zone: "z2"}}, checks: []check{where(Pod2, toVIP, false, Pod1)}},
	}
}

func externalScenarios() []scenario {
	both := []Place{Pod1, Remote}
	return []scenario{
		{name: "node port", svc: withNodePort, eps: ready(both...), checks: []check{
			where(Node, toNodePort, false, both...).anySource(), where(Pod2, toNodePort, true, both...),
		}},
		{name: "node port from outside is masqueraded", svc: withNodePort, eps: ready(Pod1), checks: []check{where(Client, toNodePort, true, Pod1), where(Pod1, toNodePort, true, Pod1)}},
		{name: "node port without endpoints", svc: withNodePort, checks: []check{ends(Client, toNodePort, Rejected), ends(Pod1, toNodePort, Rejected)}},
		{name: "node port with policy Local keeps the source", svc: and(withNodePort, externalLocal), eps: ready(both...), checks: []check{
			where(Client, toNodePort, false, Pod1), where(Pod2, toNodePort, false, both...), where(Node, toNodePort, false, both...).anySource(),
		}},
		{name: "node port with policy Local without a local endpoint", svc: and(withNodePort, externalLocal), eps: ready(Remote), checks: []check{
			ends(Client, toNodePort, Dropped), where(Pod2, toNodePort, false, Remote), where(Node, toNodePort, false, Remote).anySource(),
		}},
		{name: "load balancer", svc: withBalancer, eps: ready(Pod1, Pod2), checks: []check{where(Client, toBalancer, true, Pod1, Pod2), where(Pod1, toBalancer, true, Pod1, Pod2)}},
		{name: "load balancer with policy Local", svc: and(withBalancer, externalLocal), eps: ready(both...), checks: []check{where(Client, toBalancer, false, Pod1)}},
		{name: "load balancer that wants to see the traffic", svc: proxyMode, eps: ready(Pod1), checks: []check{where(Client, toNodePort, true, Pod1)}},
		{name: "source ranges let the client pass", svc: and(withBalancer, ranges(true)), eps: ready(Pod1), checks: []check{
			where(Client, toBalancer, true, Pod1), where(Client, toNodePort, true, Pod1), ends(Pod2, toBalancer, Dropped),
		}},
		{name: "source ranges keep the client out", svc: and(withBalancer, ranges(false)), eps: ready(Pod1), checks: []check{
			ends(Client, toBalancer, Dropped), where(Pod2, toVIP, false, Pod1),
		}},
		{name: "source ranges of the other family keep everybody out", svc: and(withBalancer, rangesIPv4), eps: ready(Pod1), checks: []check{
			where(Client, toBalancer, true, Pod1).in(corev1.IPv4Protocol), ends(Client, toBalancer, Dropped).in(corev1.IPv6Protocol),
			ends(Pod2, toBalancer, Dropped), where(Client, toNodePort, true, Pod1),
		}},
		{name: "external IP", svc: withExternal, eps: ready(Pod2), checks: []check{where(Client, toExternal, true, Pod2), where(Pod1, toExternal, true, Pod2)}},
		{name: "external IP without endpoints", svc: withExternal, checks: []check{ends(Client, toExternal, Rejected)}},
	}
}
