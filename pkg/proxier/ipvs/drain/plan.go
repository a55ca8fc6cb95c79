// Package drain is PURE: it decides which virtual servers and addresses of a kube-proxy in mode
// ipvs can go now, and which must stay until their connections have ended. It reads a State and
// returns a Plan; package ipvs observes the one and carries out the other.
package drain

import (
	"net/netip"
	"slices"
)

// Server is a virtual server of IPVS.
type Server struct {
	At       netip.AddrPort
	Protocol uint8 // IPPROTO_TCP, …
	// Open says that a real server of it accepts new connections.
	Open bool
	// Flows counts its connections, including closed ones that IPVS has not forgotten yet.
	Flows int
}

// Port is a node port.
type Port struct {
	Protocol uint8
	Number   uint16
}

// State is what the kernel holds of mode ipvs in one address family.
type State struct {
	// Addresses are those of the device kube-ipvs0.
	Addresses []netip.Addr
	// Servers are all of the family, those of other programs included.
	Servers []Server
	// NodePorts are the members of kube-proxy's ip sets of node ports.
	NodePorts map[Port]bool
	// Local are the node's own addresses, without those of kube-ipvs0.
	Local map[netip.Addr]bool
	// Sources are the source addresses of all tracked connections.
	Sources map[netip.Addr]bool
	// Exclude are ranges whose servers do not belong to kube-proxy: KubeProxyConfiguration
	// ipvs.excludeCIDRs.
	Exclude []netip.Prefix
}

// Plan is what can be done now.
type Plan struct {
	// Quiesce are virtual servers that get no new connections.
	Quiesce []Server
	// Release are addresses to take off kube-ipvs0.
	Release []netip.Addr
	// Remove are virtual servers to delete after their addresses.
	Remove []Server
	// Waiting counts the connections that must end before the rest can go.
	Waiting int
}

// New decides what can go without breaking a connection. IPVS drops the packets of a connection
// whose virtual server is deleted, and the host answers for itself once a server has no real
// server. So an address and all its servers stay while any of them has a connection, or while one
// starts at the address: a program of this node that connected to a Service has the Service's
// address as its own. Servers of node ports are at addresses that are not on kube-ipvs0.
func New(s State) Plan {
	var p Plan
	flows := map[netip.Addr]int{}
	var portServers []Server
	for _, v := range s.Servers {
		switch {
		case s.Excluded(v.At.Addr()):
			continue
		case slices.Contains(s.Addresses, v.At.Addr()):
			flows[v.At.Addr()] += v.Flows
		case s.Local[v.At.Addr()] && s.NodePorts[Port{v.Protocol, v.At.Port()}]:
			portServers = append(portServers, v)
		default:
			continue
		}
		if v.Open {
			p.Quiesce = append(p.Quiesce, v)
		}
	}
	for _, a := range s.Addresses {
		switch {
		case s.Excluded(a):
		case flows[a] > 0 || s.Sources[a]:
			p.Waiting += max(1, flows[a])
		default:
			p.Release = append(p.Release, a)
			p.Remove = append(p.Remove, s.serversAt(a)...)
		}
	}
	for _, v := range portServers {
		if v.Flows > 0 {
			p.Waiting += v.Flows
			continue
		}
		p.Remove = append(p.Remove, v)
	}
	return p
}

// Excluded says whether an address does not belong to kube-proxy.
func (s State) Excluded(a netip.Addr) bool {
	return slices.ContainsFunc(s.Exclude, func(p netip.Prefix) bool { return p.Contains(a) })
}

func (s State) serversAt(a netip.Addr) (out []Server) {
	for _, v := range s.Servers {
		if v.At.Addr() == a {
			out = append(out, v)
		}
	}
	return out
}

// WithoutConnections is the same state after every connection has ended: its Plan removes
// everything at once.
func (s State) WithoutConnections() State {
	s.Sources = nil
	s.Servers = slices.Clone(s.Servers)
	for i := range s.Servers {
		s.Servers[i].Flows = 0
	}
	return s
}

// SetNames are kube-proxy's ip sets of a family. The kernel limits the length of names.
func SetNames(ipv6 bool) []string {
	names := append(NodePortSets(ipv6), family(ipv6,
		"LOOP-BACK", "CLUSTER-IP", "EXTERNAL-IP", "EXTERNAL-IP-LOCAL", "LOAD-BALANCER", "LOAD-BALANCER-LOCAL", "LOAD-BALANCER-FW",
		"LOAD-BALANCER-SOURCE-IP", "LOAD-BALANCER-SOURCE-CIDR", "HEALTH-CHECK-NODE-PORT", "IPVS-IPS")...)
	return names
}

// NodePortSets are those of SetNames that hold node ports.
func NodePortSets(ipv6 bool) []string {
	return family(ipv6, "NODE-PORT-TCP", "NODE-PORT-LOCAL-TCP", "NODE-PORT-UDP", "NODE-PORT-LOCAL-UDP", "NODE-PORT-SCTP-HASH", "NODE-PORT-LOCAL-SCTP-HASH")
}

// maxSetName is IPSET_MAXNAMELEN less its NUL (linux/netfilter/ipset/ip_set.h).
const maxSetName = 31

func family(ipv6 bool, names ...string) []string {
	prefix := "KUBE-"
	if ipv6 {
		prefix = "KUBE-6-"
	}
	for i, n := range names {
		n = prefix + n
		names[i] = n[:min(len(n), maxSetName)]
	}
	return names
}
