package elements

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// Options say how to render; they come from KubeProxyConfiguration.
type Options struct {
	Family corev1.IPFamily
	// MasqueradeBit is the bit of the firewall mark, 0 to 31, of packets whose
	// source address is rewritten.
	MasqueradeBit int
	// MasqueradeAll rewrites the source of all traffic to cluster IPs.
	MasqueradeAll bool
	// Local tells traffic of this node's pods from other traffic.
	Local snapshot.LocalTraffic
	// TCPBeLiberal says that conntrack forgives packets out of window, so that
	// INVALID ones need not be dropped.
	TCPBeLiberal bool
}

// nodeOptions are the Options completed by what the snapshot says of the node.
type nodeOptions struct {
	Options
	nodePorts snapshot.Places
}

func (o Options) at(s *snapshot.Snapshot) nodeOptions {
	o.Local = o.Local.At(o.Family, s.Node)
	return nodeOptions{Options: o, nodePorts: s.NodePorts}
}

func (s nodeOptions) equal(o nodeOptions) bool {
	return s.Local == o.Local && s.nodePorts.Equal(o.nodePorts)
}

func (o Options) ipv6() bool { return o.Family == corev1.IPv6Protocol }

// ip is the family's word in an nftables expression.
func (o Options) ip() string {
	if o.ipv6() {
		return "ip6"
	}
	return "ip"
}

// addrType is the type of the family's addresses in a set.
func (o Options) addrType() string {
	if o.ipv6() {
		return "ipv6_addr"
	}
	return "ipv4_addr"
}

// mark sets the mark for masquerading.
func (o Options) mark() string { return fmt.Sprintf("meta mark set meta mark or %#x", o.bit()) }

func (o Options) bit() uint32 { return uint32(1) << (o.MasqueradeBit & 31) }

// local matches packets of this node's pods; op is "" or "!= ". The result is empty if they cannot
// be told from others.
func (s nodeOptions) local(op string) string {
	switch {
	case s.Local.CIDR.IsValid():
		return s.ip() + " saddr " + op + s.Local.CIDR.String()
	case s.Local.Prefix:
		return "iifname " + op + `"` + s.Local.Interface + `*"`
	case s.Local.Interface != "":
		return "iifname " + op + `"` + s.Local.Interface + `"`
	}
	return ""
}

// toNodePorts matches packets to addresses on which node ports answer. Loopback addresses are
// none in this mode: the kernel does not route what is translated from there.
func (s nodeOptions) toNodePorts() string {
	if s.nodePorts.All {
		return "fib daddr type local " + s.ip() + " daddr != " + snapshot.Loopback(s.Family).String()
	}
	return "fib daddr type local " + s.ip() + " daddr @" + setNodePortIPs
}
