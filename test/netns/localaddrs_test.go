package netns

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/proxier/localaddrs"
)

// TestAddressesAreFollowed: the kernel reports every address that is added or removed, of either
// family.
func TestAddressesAreFollowed(t *testing.T) {
	needRoot(t)
	ns := newNS(t)
	if err := in(ns, lo); err != nil {
		t.Fatal(err)
	}
	changed := make(chan []netip.Addr, 100)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		ended <- in(ns, func() error { return localaddrs.Watch(ctx, quiet(), "", func(all []netip.Addr) { changed <- all }) })
	}()
	<-changed // it watches
	link := func() (l netlink.Link) {
		if err := in(ns, func() (err error) { l, err = netlink.LinkByName("lo"); return err }); err != nil {
			t.Fatal(err)
		}
		return l
	}()
	for _, text := range []string{"192.0.2.7/32", "2001:db8::7/128"} {
		want := netip.MustParsePrefix(text).Addr()
		for _, there := range []bool{true, false} {
			if err := in(ns, func() error {
				if there {
					return address(link, text)
				}
				a, err := netlink.ParseAddr(text)
				if err != nil {
					return err
				}
				return netlink.AddrDel(link, a)
			}); err != nil {
				t.Fatal(err)
			}
			for slices.Contains(<-changed, want) != there {
			}
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestAddressesOfTheNode: those of Services on a device of their own do not count, nor what means
// nothing without its interface.
func TestAddressesOfTheNode(t *testing.T) {
	needRoot(t)
	ns := newNS(t)
	run(t, ns, "sh", "-c", `ip link set lo up; ip link add kube-ipvs0 type bridge; ip addr add 10.96.0.1/32 dev kube-ipvs0
ip link add br0 type bridge; ip addr add 192.0.2.7/24 dev br0; ip addr add 192.0.2.8/24 dev br0; ip addr add fe80::1/64 dev br0 nodad; ip addr add 2001:db8::7/64 dev br0 nodad`)
	var got []netip.Addr
	if err := in(ns, func() (err error) { got, err = localaddrs.List("kube-ipvs0"); return err }); err != nil {
		t.Fatal(err)
	}
	if want := "[127.0.0.1 192.0.2.7 192.0.2.8 ::1 2001:db8::7]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

// TestFamilyThatIsOff: a machine without IPv6 is recognised.
func TestFamilyThatIsOff(t *testing.T) {
	needRoot(t)
	ns := newNS(t)
	for off, value := range map[bool]string{false: "0", true: "1"} {
		for _, f := range []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol} {
			if err := in(ns, func() error {
				if err := sysctl("net/ipv6/conf/all/disable_ipv6", value); err != nil {
					return err
				}
				if err := localaddrs.Supports(f); (err != nil) != (off && f == corev1.IPv6Protocol) {
					t.Errorf("disable_ipv6 %s: %s: %v", value, f, err)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
}
