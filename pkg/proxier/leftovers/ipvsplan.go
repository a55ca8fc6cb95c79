package leftovers

import (
	"net/netip"
	"slices"
)

// server is a virtual server of IPVS.
type server struct {
	at       netip.AddrPort
	protocol uint8 // IPPROTO_TCP, …
	open     bool  // a real server of it takes new connections
	flows    int   // connections through it, ended ones that IPVS still remembers included
}

// port is a node port.
type port struct {
	protocol uint8
	number   uint16
}

// state is what a kube-proxy in mode ipvs left of one address family.
type state struct {
	addresses []netip.Addr        // on the bridge, kube-ipvs0
	servers   []server            // all of the family, others' too
	nodePorts map[port]bool       // as kube-proxy's ip sets name them
	local     map[netip.Addr]bool // the node's own addresses
	sources   map[netip.Addr]bool // where tracked connections start
	exclude   []netip.Prefix      // not kube-proxy's: KubeProxyConfiguration ipvs.excludeCIDRs
}

// plan is what may go now.
type plan struct {
	// shut are virtual servers to give no new connections.
	shut []server
	// release are addresses to take off the bridge.
	release []netip.Addr
	// remove are virtual servers to delete, once the addresses are gone.
	remove []server
	// waiting is how many connections must end before the rest may go.
	waiting int
}

// newPlan decides what may go while connections that were made through IPVS live on: IPVS drops
// their packets once their virtual server is deleted, and the host takes them for its own once that
// has no real server. So an address and all its servers stay until none of them has a connection,
// nor any starts at the address: a program of this node that connected to a Service has its address
// for its own. A server of a node port has an address that is none of the bridge's.
func newPlan(s state) plan {
	var p plan
	flows := map[netip.Addr]int{}
	var portServers []server
	for _, v := range s.servers {
		switch {
		case s.excluded(v.at.Addr()):
			continue
		case slices.Contains(s.addresses, v.at.Addr()):
			flows[v.at.Addr()] += v.flows
		case s.local[v.at.Addr()] && s.nodePorts[port{v.protocol, v.at.Port()}]:
			portServers = append(portServers, v)
		default:
			continue
		}
		if v.open {
			p.shut = append(p.shut, v)
		}
	}
	for _, a := range s.addresses {
		switch {
		case s.excluded(a):
		case flows[a] > 0 || s.sources[a]:
			p.waiting += max(1, flows[a])
		default:
			p.release = append(p.release, a)
			p.remove = append(p.remove, s.serversAt(a)...)
		}
	}
	for _, v := range portServers {
		if v.flows > 0 {
			p.waiting += v.flows
			continue
		}
		p.remove = append(p.remove, v)
	}
	return p
}

func (s state) excluded(a netip.Addr) bool {
	return slices.ContainsFunc(s.exclude, func(p netip.Prefix) bool { return p.Contains(a) })
}

func (s state) serversAt(a netip.Addr) (out []server) {
	for _, v := range s.servers {
		if v.at.Addr() == a {
			out = append(out, v)
		}
	}
	return out
}

// ended is s as it is when nobody waits any more: no connection counts.
func (s state) ended() state {
	s.sources = nil
	s.servers = slices.Clone(s.servers)
	for i := range s.servers {
		s.servers[i].flows = 0
	}
	return s
}

// setNames are kube-proxy's ip sets of a family; names are cut at what the kernel takes.
func setNames(ipv6 bool) []string {
	names := append(portSets(ipv6), family(ipv6,
		"LOOP-BACK", "CLUSTER-IP", "EXTERNAL-IP", "EXTERNAL-IP-LOCAL", "LOAD-BALANCER", "LOAD-BALANCER-LOCAL", "LOAD-BALANCER-FW",
		"LOAD-BALANCER-SOURCE-IP", "LOAD-BALANCER-SOURCE-CIDR", "HEALTH-CHECK-NODE-PORT", "IPVS-IPS")...)
	return names
}

// portSets are those that hold node ports.
func portSets(ipv6 bool) []string {
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
