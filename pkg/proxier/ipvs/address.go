package ipvs

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

func (l *Leaver) ipv6() bool { return l.c.Family == corev1.IPv6Protocol }

func (l *Leaver) family() int {
	if l.ipv6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// addressesOn are the addresses of Services on the device.
func (l *Leaver) addressesOn(family int) ([]netip.Addr, error) {
	list, err := netlink.AddrList(l.link, family)
	if err != nil {
		return nil, fmt.Errorf("listing addresses of %s: %w", Device, err)
	}
	var out []netip.Addr
	for _, a := range list {
		if addr, ok := netip.AddrFromSlice(a.IP); ok && !addr.Unmap().IsLinkLocalUnicast() {
			out = append(out, addr.Unmap())
		}
	}
	return out, nil
}

// setSource makes programs of this node connect to a Service from the node's own address. While
// the Service's address is on the node, Linux would choose that one, and the connection would end
// with it.
func (l *Leaver) setSource(a netip.Addr) error {
	if !l.c.NodeIP.IsValid() || l.c.NodeIP.Is6() != a.Is6() {
		return nil
	}
	route, err := localRoute(a)
	if err != nil {
		return err
	}
	route.Src = l.c.NodeIP.AsSlice()
	err = netlink.RouteReplace(route)
	// the kernel's own IPv6 route has another metric: it stays beside this one and would win
	if err == nil && a.Is6() {
		route.LinkIndex, route.Src = l.link.Attrs().Index, nil
		err = ignore(netlink.RouteDel(route), unix.ESRCH)
	}
	if err != nil {
		return fmt.Errorf("changing the source of connections to %s: %w", a, err)
	}
	return nil
}

// release takes an address off the device.
func (l *Leaver) release(a netip.Addr) error {
	route, err := localRoute(a)
	if err == nil {
		err = ignore(netlink.RouteDel(route), unix.ESRCH)
	}
	if err == nil {
		err = ignore(netlink.AddrDel(l.link, &netlink.Addr{IPNet: single(a)}), unix.EADDRNOTAVAIL)
	}
	if err != nil {
		return fmt.Errorf("taking %s off %s: %w", a, Device, err)
	}
	return nil
}

// sources are the source addresses of tracked connections.
func (l *Leaver) sources() (map[netip.Addr]bool, error) {
	flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, netlink.InetFamily(l.family()))
	if err != nil {
		return nil, fmt.Errorf("listing tracked connections (is the kernel module nf_conntrack_netlink loaded?): %w", err)
	}
	out := map[netip.Addr]bool{}
	for _, f := range flows {
		if a, ok := netip.AddrFromSlice(f.Forward.SrcIP); ok {
			out[a.Unmap()] = true
		}
	}
	return out, nil
}

// localRoute is the route by which the host accepts packets to an address. IPv6 needs a device
// that is up, which kube-ipvs0 never is.
func localRoute(a netip.Addr) (*netlink.Route, error) {
	device, scope := Device, netlink.SCOPE_HOST
	if a.Is6() {
		device, scope = "lo", netlink.SCOPE_UNIVERSE
	}
	link, err := netlink.LinkByName(device)
	if err != nil {
		return nil, fmt.Errorf("looking for %s: %w", device, err)
	}
	return &netlink.Route{
		LinkIndex: link.Attrs().Index, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Protocol: unix.RTPROT_KERNEL, Dst: single(a), Scope: scope,
	}, nil
}

func single(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

// ignore is err, or nil if err is that one.
func ignore(err, that error) error {
	if errors.Is(err, that) {
		return nil
	}
	return err
}
