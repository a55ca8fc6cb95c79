// Package proxiertest is a CONTRACT: what every proxier.Backend must do, in terms of
// packets: a connection from one place to an address, and where it lands. It runs
// against a fake kernel and against real ones.
//
// The places of the test, which each World provides in both families:
//
//	client (outside) ─┬─ node (me) ── bridge ─┬─ pod1, pod2: endpoints here
//	remote: an endpoint on another node ─┘
package proxiertest

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/proxier"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// Place is where a connection is made from.
type Place string

// The places. Pod1, Pod2 and Remote also answer on the ports TCP 8080 and UDP 5353.
const (
	Node   Place = "node"   // a process of the node itself
	Pod1   Place = "pod1"   // a pod of the node
	Pod2   Place = "pod2"   // another
	Remote Place = "remote" // a pod of another node
	Client Place = "client" // outside of the cluster
)

// Ports that endpoints answer on.
const (
	TCPPort = 8080
	UDPPort = 5353
)

// Bridge is the name of the bridge that this node's pods are on.
const Bridge = "cni0"

// Address of a place in a family.
func Address(p Place, f corev1.IPFamily) netip.Addr {
	v4 := map[Place]string{Node: "192.168.77.2", Pod1: "10.244.1.11", Pod2: "10.244.1.12", Remote: "10.244.2.21", Client: "203.0.113.5"}
	v6 := map[Place]string{Node: "fd77::2", Pod1: "fd00:244:1::11", Pod2: "fd00:244:1::12", Remote: "fd00:244:2::21", Client: "2001:db8:5::5"}
	if f == corev1.IPv6Protocol {
		return netip.MustParseAddr(v6[p])
	}
	return netip.MustParseAddr(v4[p])
}

// PodRange holds the addresses of all pods of the cluster.
func PodRange(f corev1.IPFamily) netip.Prefix {
	if f == corev1.IPv6Protocol {
		return netip.MustParsePrefix("fd00:244::/32")
	}
	return netip.MustParsePrefix("10.244.0.0/16")
}

// ServiceRanges are routed through the node: cluster IPs, load-balancer IPs and external IPs.
func ServiceRanges(f corev1.IPFamily) []netip.Prefix {
	if f == corev1.IPv6Protocol {
		return []netip.Prefix{netip.MustParsePrefix("fd00:96::/112"), netip.MustParsePrefix("2001:db8:100::/64")}
	}
	return []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("198.51.100.0/24")}
}

// NodeView is the node that snapshots of the suite are built for.
func NodeView() snapshot.Node {
	return snapshot.Node{Name: "me", Zone: "z1", Addresses: []netip.Addr{Address(Node, corev1.IPv4Protocol), Address(Node, corev1.IPv6Protocol)}}
}

// Result is the outcome of one connection.
type Result struct {
	// Verdict is landed, rejected (at once) or dropped (no answer).
	Verdict Verdict
	// At is the endpoint that answered.
	At netip.AddrPort
	// Source is the address that the endpoint saw.
	Source netip.Addr
}

// Verdict is the end of a connection attempt.
type Verdict string

// The verdicts.
const (
	Landed   Verdict = "landed"
	Rejected Verdict = "rejected"
	Dropped  Verdict = "dropped"
)

// World carries packets through what a Backend programmed.
type World interface {
	// Connect opens a connection from a place and reports what happened.
	Connect(t testing.TB, from Place, protocol corev1.Protocol, to netip.AddrPort) Result
}

// Harness makes a world and a backend that programs it. The backend recognizes local
// pods by PodRange, and masquerades with fwmark bit 14. It should fail one call in
// ten, so that recovery is part of every test.
type Harness struct {
	New func(t *testing.T, f corev1.IPFamily) (proxier.Backend, World)
	// Tries is how many connections it takes to see all endpoints that are chosen at
	// random; 40 if it is 0.
	Tries int
}
