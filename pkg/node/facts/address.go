package facts

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Addresses returns the node's addresses: the given ones, else the one of the default route's
// interface, IPv4 first, or IPv6 first where :: is given. The kernel is asked by netlink, which
// answers for the thread that asks; /proc/net answers for the process's main thread.
func Addresses(given []netip.Addr) ([]netip.Addr, error) {
	families := []int{unix.AF_INET, unix.AF_INET6}
	switch {
	case len(given) == 1 && given[0] == netip.IPv6Unspecified():
		slices.Reverse(families)
	case len(given) == 1 && given[0].IsUnspecified():
	case len(given) > 0:
		return given, nil
	}
	n, err := readNetwork()
	if err != nil {
		return nil, fmt.Errorf("finding the node's address: %w; give it with --node-ip", err)
	}
	a, err := n.address(families)
	if err != nil {
		return nil, fmt.Errorf("finding the node's address: %w; give it with --node-ip", err)
	}
	return []netip.Addr{a}, nil
}

// network is what the kernel says of this network namespace.
type network struct {
	// defaults are the indexes of the default routes' interfaces by family, the preferred route
	// first.
	defaults map[int][]int
	links    []link
}

type link struct {
	index        int
	up, loopback bool
	addresses    []netip.Addr
}

// address is a global one of the interface that a default route names. Where such interfaces have
// only link-local addresses (RFC 5549), it is a global one of the loopback interface.
func (n network) address(families []int) (netip.Addr, error) {
	if len(n.defaults[unix.AF_INET])+len(n.defaults[unix.AF_INET6]) == 0 {
		return netip.Addr{}, errors.New("there is no default route")
	}
	for _, family := range families {
		for _, index := range n.defaults[family] {
			for _, suits := range []func(link) bool{
				func(l link) bool { return l.index == index },
				func(l link) bool { return l.loopback },
			} {
				if a, ok := n.global(family, suits); ok {
					return a, nil
				}
			}
		}
	}
	return netip.Addr{}, errors.New("no interface of a default route is up with a global address")
}

func (n network) global(family int, suits func(link) bool) (netip.Addr, bool) {
	for _, l := range n.links {
		if !l.up || !suits(l) {
			continue
		}
		for _, a := range l.addresses {
			if a.Is4() == (family == unix.AF_INET) && a.IsGlobalUnicast() {
				return a, true
			}
		}
	}
	return netip.Addr{}, false
}

func readNetwork() (network, error) {
	n := network{defaults: map[int][]int{}}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := whole(func() ([]netlink.Route, error) { return netlink.RouteList(nil, family) })
		if err != nil && family == unix.AF_INET6 {
			continue // a kernel without IPv6
		}
		if err != nil {
			return n, fmt.Errorf("listing routes: %w", err)
		}
		n.defaults[family] = defaultLinks(routes)
	}
	links, err := whole(netlink.LinkList)
	if err != nil {
		return n, fmt.Errorf("listing interfaces: %w", err)
	}
	addresses, err := whole(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, unix.AF_UNSPEC) })
	if err != nil {
		return n, fmt.Errorf("listing addresses: %w", err)
	}
	for _, l := range links {
		a := l.Attrs()
		have := link{index: a.Index, up: a.Flags&net.FlagUp != 0, loopback: a.Flags&net.FlagLoopback != 0}
		for _, address := range addresses {
			if ip, ok := netip.AddrFromSlice(address.IP); ok && address.LinkIndex == a.Index {
				have.addresses = append(have.addresses, ip.Unmap())
			}
		}
		n.links = append(n.links, have)
	}
	return n, nil
}

// defaultLinks are the interfaces of the default routes, the kernel's preferred one first.
func defaultLinks(routes []netlink.Route) []int {
	slices.SortStableFunc(routes, func(a, b netlink.Route) int { return cmp.Compare(a.Priority, b.Priority) })
	var links []int
	for _, r := range routes {
		if r.Type != unix.RTN_UNICAST {
			continue
		}
		if r.Dst != nil {
			if ones, _ := r.Dst.Mask.Size(); ones != 0 || !r.Dst.IP.IsUnspecified() {
				continue
			}
		}
		if r.LinkIndex > 0 {
			links = append(links, r.LinkIndex)
		}
		for _, hop := range r.MultiPath {
			links = append(links, hop.LinkIndex)
		}
	}
	return links
}

// whole asks again when the kernel's tables changed while they were read. A table that never
// stands still is taken as it is.
func whole[T any](list func() ([]T, error)) (all []T, err error) {
	for range 5 {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
	return all, nil
}
