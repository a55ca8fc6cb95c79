package sysctl

import (
	"strconv"
	"time"
)

// Settings are what the services half wants of the kernel, from
// KubeProxyConfiguration; zero values leave things alone.
type Settings struct {
	// MaxPerCore and Min give nf_conntrack_max: the larger of MaxPerCore × CPUs
	// and Min. MaxPerCore 0: left alone.
	MaxPerCore, Min int
	CPUs            int
	// Timeouts, in whole seconds.
	TCPEstablished, TCPCloseWait, UDP, UDPStream time.Duration
	TCPBeLiberal                                 bool
	// LocalhostNodePorts needs packets to 127.0.0.1 to be routed (IPv4 only).
	LocalhostNodePorts bool
	IPv4, IPv6         bool
}

// Change is one sysctl to look at.
type Change struct {
	// Name is the path below /proc/sys.
	Name string
	// Value is what it shall be.
	Value string
	// Check: only warn if it is different.
	Check bool
	// Why is for the log.
	Why string
}

const (
	netfilter = "net/netfilter/nf_conntrack_"
	// maxConntrack bounds what many cores ask for: an entry takes 300 bytes.
	maxConntrack = 1 << 20
)

// Plan lists the changes in the order to make them.
func Plan(s Settings) []Change {
	var out []Change
	if s.MaxPerCore > 0 {
		n := min(maxConntrack, max(s.Min, s.MaxPerCore*s.CPUs))
		out = append(out, Change{Name: netfilter + "max", Value: strconv.Itoa(n), Why: "conntrack.maxPerCore and min"})
	}
	for _, t := range []struct {
		name string
		d    time.Duration
		why  string
	}{
		{"tcp_timeout_established", s.TCPEstablished, "conntrack.tcpEstablishedTimeout"},
		{"tcp_timeout_close_wait", s.TCPCloseWait, "conntrack.tcpCloseWaitTimeout"},
		{"udp_timeout", s.UDP, "conntrack.udpTimeout"},
		{"udp_timeout_stream", s.UDPStream, "conntrack.udpStreamTimeout"},
	} {
		if t.d > 0 {
			out = append(out, Change{Name: netfilter + t.name, Value: strconv.Itoa(int(t.d / time.Second)), Why: t.why})
		}
	}
	if s.TCPBeLiberal {
		out = append(out, Change{Name: netfilter + "tcp_be_liberal", Value: "1", Why: "conntrack.tcpBeLiberal"})
	}
	if s.LocalhostNodePorts && s.IPv4 {
		out = append(out, Change{Name: "net/ipv4/conf/all/route_localnet", Value: "1", Why: "iptables.localhostNodePorts"})
	}
	bridged := "packets between pods of one bridge pass by Services without it"
	if s.IPv4 {
		out = append(out,
			Change{Name: "net/bridge/bridge-nf-call-iptables", Value: "1", Check: true, Why: bridged},
			Change{Name: "net/ipv4/ip_forward", Value: "1", Check: true, Why: "pods reach nothing but this node without it"})
	}
	if s.IPv6 {
		out = append(out,
			Change{Name: "net/bridge/bridge-nf-call-ip6tables", Value: "1", Check: true, Why: bridged},
			Change{Name: "net/ipv6/conf/all/forwarding", Value: "1", Check: true, Why: "pods reach nothing but this node without it"})
	}
	return out
}
