package leftovers

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

func vs(at string, flows int) server {
	return server{at: netip.MustParseAddrPort(at), protocol: 6, open: true, flows: flows}
}

func addrs(texts ...string) (out []netip.Addr) {
	for _, a := range texts {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func TestPlan(t *testing.T) {
	node := map[netip.Addr]bool{netip.MustParseAddr("192.168.77.11"): true}
	ports := map[port]bool{{6, 30080}: true}
	for _, c := range []struct {
		name string
		s    state
		want string
	}{
		{"nothing is there", state{}, "shut [] release [] remove [] waiting 0"},
		{
			"an address goes with all its servers",
			state{addresses: addrs("10.96.0.1"), servers: []server{vs("10.96.0.1:443", 0), vs("10.96.0.1:80", 0)}},
			"shut [10.96.0.1:443 10.96.0.1:80] release [10.96.0.1] remove [10.96.0.1:443 10.96.0.1:80] waiting 0",
		},
		{
			"a connection keeps the address and the other servers on it, which refuse what comes for them",
			state{addresses: addrs("10.96.0.1", "10.96.0.2"), servers: []server{vs("10.96.0.1:443", 2), vs("10.96.0.1:80", 0), vs("10.96.0.2:53", 0)}},
			"shut [10.96.0.1:443 10.96.0.1:80 10.96.0.2:53] release [10.96.0.2] remove [10.96.0.2:53] waiting 2",
		},
		{
			"so does one that starts at the address",
			state{
				addresses: addrs("10.96.0.1"), servers: []server{vs("10.96.0.1:443", 0)},
				sources: map[netip.Addr]bool{netip.MustParseAddr("10.96.0.1"): true},
			},
			"shut [10.96.0.1:443] release [] remove [] waiting 1",
		},
		{
			"an address without servers goes",
			state{addresses: addrs("10.96.0.9")},
			"shut [] release [10.96.0.9] remove [] waiting 0",
		},
		{
			"servers of others stay",
			state{local: node, nodePorts: ports, servers: []server{vs("192.0.2.1:80", 0), vs("192.168.77.11:80", 0), vs("192.168.77.12:30080", 0)}},
			"shut [] release [] remove [] waiting 0",
		},
		{
			"node ports are on the node's addresses",
			state{local: node, nodePorts: ports, servers: []server{vs("192.168.77.11:30080", 0)}},
			"shut [192.168.77.11:30080] release [] remove [192.168.77.11:30080] waiting 0",
		},
		{
			"and wait, too",
			state{local: node, nodePorts: ports, servers: []server{vs("192.168.77.11:30080", 3)}},
			"shut [192.168.77.11:30080] release [] remove [] waiting 3",
		},
		{
			"what is excluded stays, its address too",
			state{
				addresses: addrs("10.1.0.1", "10.96.0.1"), servers: []server{vs("10.1.0.1:80", 0), vs("10.96.0.1:80", 0)},
				exclude: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")},
			},
			"shut [10.96.0.1:80] release [10.96.0.1] remove [10.96.0.1:80] waiting 0",
		},
	} {
		if got := text(newPlan(c.s)); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

func text(p plan) string {
	at := func(list []server) (out []netip.AddrPort) {
		for _, s := range list {
			out = append(out, s.at)
		}
		return out
	}
	return fmt.Sprintf("shut %v release %v remove %v waiting %d", at(p.shut), p.release, at(p.remove), p.waiting)
}

// TestPlanBreaksNothingAndEnds: in any state, what goes has no connection, and once all have ended
// everything of kube-proxy goes.
func TestPlanBreaksNothingAndEnds(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		s := state{nodePorts: map[port]bool{{6, 30080}: true}, local: map[netip.Addr]bool{}, sources: map[netip.Addr]bool{}}
		for i := range 5 {
			a := netip.AddrFrom4([4]byte{10, 96, 0, byte(i)})
			switch random.IntN(4) {
			case 0:
				s.local[a] = true
			case 1:
			default:
				s.addresses = append(s.addresses, a)
			}
			if random.IntN(3) == 0 {
				s.sources[a] = true
			}
			for _, number := range []uint16{80, 30080} {
				if random.IntN(2) == 0 {
					s.servers = append(s.servers, server{at: netip.AddrPortFrom(a, number), protocol: 6, flows: random.IntN(2), open: true})
				}
			}
		}
		p := newPlan(s)
		for _, v := range p.remove {
			if v.flows > 0 || !slices.Contains(p.shut, v) {
				t.Fatalf("%s of %+v", text(p), s)
			}
		}
		for _, a := range p.release {
			if s.sources[a] || slices.ContainsFunc(s.serversAt(a), func(v server) bool { return v.flows > 0 }) {
				t.Fatalf("%s of %+v", text(p), s)
			}
		}
		if last := newPlan(s.ended()); last.waiting != 0 || len(last.release) != len(s.addresses) || len(last.remove) != len(last.shut) {
			t.Fatalf("in the end %s of %+v", text(last), s)
		}
	}
}

func TestSetNamesFit(t *testing.T) {
	for _, ipv6 := range []bool{false, true} {
		names := setNames(ipv6)
		if len(names) != 17 {
			t.Errorf("%d sets", len(names))
		}
		for _, n := range names {
			if len(n) > maxSetName {
				t.Errorf("%q is too long for the kernel", n)
			}
		}
	}
	if got := portSets(true)[5]; got != "KUBE-6-NODE-PORT-LOCAL-SCTP-HAS" {
		t.Errorf("the longest name is cut to %q", got)
	}
}
