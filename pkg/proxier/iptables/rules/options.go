package rules

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
	// MasqueradeBit is the bit of the fwmark, 0 to 31, of packets to masquerade.
	MasqueradeBit int
	// MasqueradeAll masquerades all traffic to cluster IPs.
	MasqueradeAll bool
	// Local distinguishes traffic of this node's pods from other traffic.
	Local Local
	// Localhost says that node ports answer on 127.0.0.1; this needs the sysctl route_localnet.
	Localhost bool
	// NoFirewall leaves out KUBE-FIREWALL, which protects 127.0.0.1 from other hosts, unless
	// Localhost needs it. KubeletConfiguration makeIPTablesUtilChains: false.
	NoFirewall bool
	// TCPBeLiberal says that conntrack accepts packets out of window, so that
	// INVALID ones need not be dropped.
	TCPBeLiberal bool
	// Accounting counts packets that are dropped as INVALID, and those to node ports on 127.0.0.1,
	// with the kernel's counters CountInvalid and CountLocalhost, which must exist.
	Accounting bool
	// RandomFully chooses the source ports of masqueraded packets at random (iptables ≥ 1.6.2).
	RandomFully bool
}

// Counters of nfnetlink_acct, by kube-proxy's names.
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
	// NodeCIDR takes the range that the control plane has assigned to the node; while there is
	// none, no packet counts as local.
	NodeCIDR bool
	// Interface is a bridge's name (BridgeInterface), or a prefix and "+"
	// (InterfaceNamePrefix).
	Interface string
}

// is are the match arguments for a local packet; empty: unknown.
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

func (o Options) firewall() bool { return !o.ipv6() && (!o.NoFirewall || o.Localhost) }

// nodeOptions are the Options completed by what the snapshot says of the node.
type nodeOptions struct {
	Options
	nodePorts snapshot.Places
}

func (o Options) at(s *snapshot.Snapshot) nodeOptions {
	out := nodeOptions{Options: o, nodePorts: s.NodePorts}
	if o.Local.NodeCIDR {
		out.Local = Local{CIDR: s.Node.PodCIDR(o.Family)}
	}
	return out
}

func (s nodeOptions) equal(o nodeOptions) bool {
	return s.Local == o.Local && s.nodePorts.Equal(o.nodePorts)
}

// destinations are the match arguments for the addresses on which node ports answer, for one rule
// each; none if they answer nowhere. The rule also has to match that the address is the node's.
func (s nodeOptions) destinations() []string {
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

// fwmark is the mark of packets to masquerade, as iptables writes it.
func (o Options) fwmark() string { return fmt.Sprintf("%#x", uint32(1)<<(o.MasqueradeBit&31)) }
