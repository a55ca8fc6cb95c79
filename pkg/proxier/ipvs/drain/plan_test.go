package drain

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

func vs(at string, flows int) Server {
	return Server{At: netip.MustParseAddrPort(at), Protocol: 6, Open: true, Flows: flows}
}

func addrs(texts ...string) (out []netip.Addr) {
	for _, a := range texts {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func TestPlan(t *testing.T) {
	node := map[netip.Addr]bool{netip.MustParseAddr("192.168.77.11"): true}
	ports := map[Port]bool{{6, 30080}: true}
	for _, c := range []struct {
		name string
		s    State
		want string
	}{
		{"nothing is there", State{}, "quiesce [] release [] remove [] waiting 0"},
		{
			"an address goes with all its servers",
			State{Addresses: addrs("10.96.0.1"), Servers: []Server{vs("10.96.0.1:443", 0), vs("10.96.0.1:80", 0)}},
			"quiesce [10.96.0.1:443 10.96.0.1:80] release [10.96.0.1] remove [10.96.0.1:443 10.96.0.1:80] waiting 0",
		},
		{
			"a connection keeps the address and the other servers on it, which refuse what comes for them",
			State{Addresses: addrs("10.96.0.1", "10.96.0.2"), Servers: []Server{vs("10.96.0.1:443", 2), vs("10.96.0.1:80", 0), vs("10.96.0.2:53", 0)}},
			"quiesce [10.96.0.1:443 10.96.0.1:80 10.96.0.2:53] release [10.96.0.2] remove [10.96.0.2:53] waiting 2",
		},
		{
			"so does one that starts at the address",
			State{
				Addresses: addrs("10.96.0.1"), Servers: []Server{vs("10.96.0.1:443", 0)},
				Sources: map[netip.Addr]bool{netip.MustParseAddr("10.96.0.1"): true},
			},
			"quiesce [10.96.0.1:443] release [] remove [] waiting 1",
		},
		{
			"an address without servers goes",
			State{Addresses: addrs("10.96.0.9")},
			"quiesce [] release [10.96.0.9] remove [] waiting 0",
		},
		{
			"servers of others stay",
			State{Local: node, NodePorts: ports, Servers: []Server{vs("192.0.2.1:80", 0), vs("192.168.77.11:80", 0), vs("192.168.77.12:30080", 0)}},
			"quiesce [] release [] remove [] waiting 0",
		},
		{
			"node ports are on the node's addresses",
			State{Local: node, NodePorts: ports, Servers: []Server{vs("192.168.77.11:30080", 0)}},
			"quiesce [192.168.77.11:30080] release [] remove [192.168.77.11:30080] waiting 0",
		},
		{
			"and wait, too",
			State{Local: node, NodePorts: ports, Servers: []Server{vs("192.168.77.11:30080", 3)}},
			"quiesce [192.168.77.11:30080] release [] remove [] waiting 3",
		},
		{
			"what is excluded stays, its address too",
			State{
				Addresses: addrs("10.1.0.1", "10.96.0.1"), Servers: []Server{vs("10.1.0.1:80", 0), vs("10.96.0.1:80", 0)},
				Exclude: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")},
			},
			"quiesce [10.96.0.1:80] release [10.96.0.1] remove [10.96.0.1:80] waiting 0",
		},
	} {
		if got := text(New(c.s)); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

func text(p Plan) string {
	at := func(list []Server) (out []netip.AddrPort) {
		for _, s := range list {
			out = append(out, s.At)
		}
		return out
	}
	return fmt.Sprintf("quiesce %v release %v remove %v waiting %d", at(p.Quiesce), p.Release, at(p.Remove), p.Waiting)
}

// TestPlanBreaksNothingAndEnds: in any state, what goes has no connection, and once all have ended
// everything of kube-proxy goes.
func TestPlanBreaksNothingAndEnds(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		s := State{NodePorts: map[Port]bool{{6, 30080}: true}, Local: map[netip.Addr]bool{}, Sources: map[netip.Addr]bool{}}
		for i := range 5 {
			a := netip.AddrFrom4([4]byte{10, 96, 0, byte(i)})
			switch random.IntN(4) {
			case 0:
				s.Local[a] = true
			case 1:
			default:
				s.Addresses = append(s.Addresses, a)
			}
			if random.IntN(3) == 0 {
				s.Sources[a] = true
			}
			for _, number := range []uint16{80, 30080} {
				if random.IntN(2) == 0 {
					s.Servers = append(s.Servers, Server{At: netip.AddrPortFrom(a, number), Protocol: 6, Flows: random.IntN(2), Open: true})
				}
			}
		}
		p := New(s)
		for _, v := range p.Remove {
			if v.Flows > 0 || !slices.Contains(p.Quiesce, v) {
				t.Fatalf("%s of %+v", text(p), s)
			}
		}
		for _, a := range p.Release {
			if s.Sources[a] || slices.ContainsFunc(s.serversAt(a), func(v Server) bool { return v.Flows > 0 }) {
				t.Fatalf("%s of %+v", text(p), s)
			}
		}
		if last := New(s.WithoutConnections()); last.Waiting != 0 || len(last.Release) != len(s.Addresses) || len(last.Remove) != len(last.Quiesce) {
			t.Fatalf("in the end %s of %+v", text(last), s)
		}
	}
}

func TestSetNamesFit(t *testing.T) {
	for _, ipv6 := range []bool{false, true} {
		names := SetNames(ipv6)
		if len(names) != 17 {
			t.Errorf("%d sets", len(names))
		}
		for _, n := range names {
			if len(n) > maxSetName {
				t.Errorf("%q is too long for the kernel", n)
			}
		}
	}
	if got := NodePortSets(true)[5]; got != "KUBE-6-NODE-PORT-LOCAL-SCTP-HAS" {
		t.Errorf("the longest name is cut to %q", got)
	}
}
