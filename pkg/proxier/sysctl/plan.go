package sysctl

import (
	"strconv"
	"time"
)

// Settings are what the services half needs of the kernel, from
// KubeProxyConfiguration; zero values change nothing.
type Settings struct {
	// MaxPerCore and Min determine nf_conntrack_max: the larger of MaxPerCore ×
	// CPUs, which is bounded, and Min. MaxPerCore 0: it is not changed.
	MaxPerCore, Min int
	CPUs            int
	// Timeouts, in whole seconds.
	TCPEstablished, TCPCloseWait, UDP, UDPStream time.Duration
	TCPBeLiberal                                 bool
	// LocalhostNodePorts needs packets to 127.0.0.1 to be routed (IPv4 only).
	LocalhostNodePorts bool
	// IPv4 and IPv6 are the families of the node's addresses.
	IPv4, IPv6 bool
	// Bridged says that a bridge of this machine has a port, as with many CNI plugins.
	Bridged bool
}

// Change is one kernel parameter to set or check.
type Change struct {
	// Name is the path below /proc/sys, or below /sys if it begins with module/.
	Name string
	// Value is what it should be; AtLeast: or any larger number.
	Value   string
	AtLeast bool
	// Check: only report if it is different.
	Check bool
	// Why is for the log; of a Check, what goes wrong, and what to do.
	Why string
}

const (
	netfilter = "net/netfilter/nf_conntrack_"
	hashSize  = "module/nf_conntrack/parameters/hashsize"
	// maxConntrack bounds what many cores lead to: an entry takes 300 bytes.
	maxConntrack = 1 << 20
	// entriesPerBucket is how long chains in the table of connections may become.
	entriesPerBucket = 4
)

// Plan lists the changes in the order to make them.
func Plan(s Settings) []Change {
	out := conntrackSize(s)
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
	return append(out, checks(s)...)
}

// conntrackSize never reduces the size: an administrator has a reason for a larger one.
func conntrackSize(s Settings) []Change {
	if s.MaxPerCore <= 0 {
		return nil
	}
	n := max(s.Min, min(maxConntrack, s.MaxPerCore*s.CPUs))
	const why = "conntrack.maxPerCore and min"
	return []Change{
		{Name: netfilter + "max", Value: strconv.Itoa(n), AtLeast: true, Why: why},
		{Name: hashSize, Value: strconv.Itoa(n / entriesPerBucket), AtLeast: true, Why: why},
	}
}

// checks are parameters that pods' networks need and others have to set.
func checks(s Settings) []Change {
	const (
		bridged = "pods on one bridge do not reach each other by Services (modprobe br_netfilter, and 1 for this parameter)"
		forward = "pods reach nothing but this node (sysctl -w, and a file in /etc/sysctl.d)"
	)
	var out []Change
	for _, family := range []struct {
		on              bool
		bridge, forward string
	}{
		{s.IPv4, "net/bridge/bridge-nf-call-iptables", "net/ipv4/ip_forward"},
		{s.IPv6, "net/bridge/bridge-nf-call-ip6tables", "net/ipv6/conf/all/forwarding"},
	} {
		if !family.on {
			continue
		}
		if s.Bridged {
			out = append(out, Change{Name: family.bridge, Value: "1", Check: true, Why: bridged})
		}
		out = append(out, Change{Name: family.forward, Value: "1", Check: true, Why: forward})
	}
	return out
}
