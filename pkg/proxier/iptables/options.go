package iptables

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// Options say how to render; they come from KubeProxyConfiguration and from
// what the iptables program can do.
type Options struct {
	Family corev1.IPFamily
	// MasqueradeBit is the bit of the firewall mark, 0 to 31, of packets whose
	// source is to be rewritten.
	MasqueradeBit int
	// MasqueradeAll rewrites the source of all traffic to cluster IPs.
	MasqueradeAll bool
	// Local tells traffic of this node's pods from other traffic.
	Local Local
	// NodePorts say where node ports answer. On 127.0.0.1 they need the sysctl route_localnet.
	NodePorts snapshot.NodePortAddresses
	// NoFirewall leaves out KUBE-FIREWALL, which keeps others from 127.0.0.1; not where node ports
	// answer there, which need it. KubeletConfiguration makeIPTablesUtilChains: false.
	NoFirewall bool
	// TCPBeLiberal says that conntrack forgives packets out of window, so that
	// INVALID ones need not be dropped.
	TCPBeLiberal bool
	// Accounting counts packets that are dropped as INVALID, and those to node ports on 127.0.0.1,
	// with the kernel's counters CountInvalid and CountLocalhost, which must be there.
	Accounting bool
	// RandomFully chooses masqueraded source ports at random (iptables ≥ 1.6.2).
	RandomFully bool
}

// Counters of nfnetlink_acct, by the names that kube-proxy has for them.
const (
	CountInvalid   = "ct_state_invalid_dropped_pkts"
	CountLocalhost = "localhost_nps_accepted_pkts"
)

// count is the match that counts a packet.
func (o Options) count(counter string) string {
	if !o.Accounting {
		return ""
	}
	return "-m nfacct --nfacct-name " + counter
}

// Local recognizes packets of this node's pods (detectLocalMode); at most one
// field is set. With none, no packet counts as such.
type Local struct {
	// CIDR is the pods' range (ClusterCIDR).
	CIDR netip.Prefix
	// NodeCIDR takes the range that the node has at the time, as the control plane assigned it;
	// while it has none, no packet counts as local.
	NodeCIDR bool
	// Interface is a bridge's name (BridgeInterface), or a prefix and "+"
	// (InterfaceNamePrefix).
	Interface string
}

// is are the match arguments for a local packet; empty: cannot be told.
func (l Local) is() string {
	switch {
	case l.CIDR.IsValid():
		return "-s " + l.CIDR.String()
	case l.Interface != "":
		return "-i " + l.Interface
	}
	return ""
}

// isNot are the match arguments for all other packets.
func (l Local) isNot() string {
	if is := l.is(); is != "" {
		return "! " + is
	}
	return ""
}

// Localhost says whether node ports answer on 127.0.0.1.
func (o Options) Localhost() bool { return o.NodePorts.At(o.Family, snapshot.Node{}).Loopback }

func (o Options) firewall() bool { return !o.ipv6() && (!o.NoFirewall || o.Localhost()) }

// scene is what rules of Services depend on besides them: Options, and what the node is at the
// time.
type scene struct {
	Options
	nodePorts snapshot.Places
}

func (o Options) on(n snapshot.Node) scene {
	s := scene{Options: o, nodePorts: o.NodePorts.At(o.Family, n)}
	if o.Local.NodeCIDR {
		s.Local = Local{CIDR: n.PodCIDR(o.Family)}
	}
	return s
}

func (s scene) equal(o scene) bool { return s.Local == o.Local && s.nodePorts.Equal(o.nodePorts) }

// destinations are the match arguments for the addresses on which node ports answer: one rule for
// each, none if they answer nowhere. Whether an address of a range is the node's, the rule asks
// besides.
func (s scene) destinations() []string {
	switch {
	case !s.nodePorts.All:
		out := make([]string, 0, len(s.nodePorts.Ranges))
		for _, p := range s.nodePorts.Ranges {
			out = append(out, "-d "+p.String())
		}
		return out
	case s.nodePorts.Loopback:
		return []string{""}
	}
	return []string{"! -d " + snapshot.Loopback(s.Family).String()}
}

func (o Options) ipv6() bool { return o.Family == corev1.IPv6Protocol }

// mark is the firewall mark as iptables writes it.
func (o Options) mark() string { return fmt.Sprintf("%#x", uint32(1)<<(o.MasqueradeBit&31)) }
