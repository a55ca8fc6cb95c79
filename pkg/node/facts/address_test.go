package facts

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestAddressOfTheDefaultRoute(t *testing.T) {
	addresses := func(all ...string) (out []netip.Addr) {
		for _, a := range all {
			out = append(out, netip.MustParseAddr(a))
		}
		return out
	}
	links := []link{
		{index: 1, up: true, loopback: true, addresses: addresses("127.0.0.1", "::1")},
		{index: 2, up: true, addresses: addresses("169.254.1.1", "10.0.0.2", "fe80::1", "2001:db8::2")},
		{index: 3, addresses: addresses("10.0.0.3")},
		{index: 4, up: true, addresses: addresses("fe80::4", "2001:db8::4")},
		{index: 5, up: true, addresses: addresses("fe80::5")},
	}
	routed := slices.Clone(links)
	routed[0].addresses = addresses("127.0.0.1", "10.9.9.9")
	for name, c := range map[string]struct {
		links     []link
		four, six []int
		want      string // "": refused
		sixFirst  bool
	}{
		"IPv4":                          {links, []int{2}, nil, "10.0.0.2", false},
		"IPv4 before IPv6":              {links, []int{2}, []int{4}, "10.0.0.2", false},
		"IPv6 before IPv4 where asked":  {links, []int{2}, []int{4}, "2001:db8::4", true},
		"IPv4 though IPv6 was asked":    {links, []int{2}, nil, "10.0.0.2", true},
		"IPv6 only":                     {links, nil, []int{4}, "2001:db8::4", false},
		"the preferred one is down":     {links, []int{3, 2}, nil, "10.0.0.2", false},
		"no route":                      {links, nil, nil, "", false},
		"no global address":             {links, []int{5}, []int{5}, "", false},
		"the address is on loopback":    {routed, []int{5}, nil, "10.9.9.9", false},
		"IPv4 route, only IPv6 address": {links, []int{4}, []int{4}, "2001:db8::4", false},
	} {
		t.Run(name, func(t *testing.T) {
			families := []int{unix.AF_INET, unix.AF_INET6}
			if c.sixFirst {
				slices.Reverse(families)
			}
			got, err := network{defaults: map[int][]int{unix.AF_INET: c.four, unix.AF_INET6: c.six}, links: c.links}.address(families)
			if (err != nil) != (c.want == "") || (err == nil && got.String() != c.want) {
				t.Errorf("%s, %v; want %q", got, err, c.want)
			}
		})
	}
}

func TestDefaultLinks(t *testing.T) {
	cidr := func(s string) *net.IPNet {
		_, n, err := net.ParseCIDR(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	got := defaultLinks([]netlink.Route{
		{LinkIndex: 9, Priority: 200, Type: unix.RTN_UNICAST},
		{LinkIndex: 8, Dst: cidr("10.0.0.0/8"), Type: unix.RTN_UNICAST},
		{Priority: 1, Type: unix.RTN_UNREACHABLE},
		{Dst: cidr("::/0"), Priority: 100, Type: unix.RTN_UNICAST, MultiPath: []*netlink.NexthopInfo{{LinkIndex: 2}, {LinkIndex: 3}}},
	})
	if !slices.Equal(got, []int{2, 3, 9}) {
		t.Errorf("default routes by interfaces %v, want [2 3 9]", got)
	}
}
