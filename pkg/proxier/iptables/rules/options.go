package rules

import (
	"fmt"

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
	Local snapshot.LocalTraffic
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

// isLocal are the match arguments for a packet of this node's pods; empty: unknown.
func (s nodeOptions) isLocal() string {
	switch {
	case s.Local.CIDR.IsValid():
		return "-s " + s.Local.CIDR.String()
	case s.Local.Prefix:
		return "-i " + s.Local.Interface + "+"
	case s.Local.Interface != "":
		return "-i " + s.Local.Interface
	}
	return ""
}

// isNotLocal are the match arguments for all other packets.
func (s nodeOptions) isNotLocal() string {
	if is := s.isLocal(); is != "" {
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
	o.Local = o.Local.At(o.Family, s.Node)
	return nodeOptions{Options: o, nodePorts: s.NodePorts}
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
