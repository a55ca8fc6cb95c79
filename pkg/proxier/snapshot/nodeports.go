package snapshot

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// NodePortAddresses say on which of a node's addresses node ports and their health checks answer
// (KubeProxyConfiguration nodePortAddresses). On its other addresses the same ports belong to
// other programs.
type NodePortAddresses struct {
	// Ranges are of both families. In a family without ranges, node ports answer on all addresses.
	Ranges []netip.Prefix
	// Primary limits node ports to the node's primary address of each family; Ranges are ignored.
	Primary bool
	// Localhost makes node ports answer on 127.0.0.1, too, unless Ranges exclude it. It has no
	// meaning in IPv6.
	Localhost bool
}

// Places are the addresses of one node and family on which node ports answer.
type Places struct {
	// All stands for every address, the loopback ones only if Loopback.
	All bool
	// Ranges, if not All, are sorted; without any, node ports answer nowhere. They hold loopback
	// addresses only if Loopback.
	Ranges []netip.Prefix
	// Loopback says that 127.0.0.1 is among them.
	Loopback bool
}

// At returns the places on a node.
func (a NodePortAddresses) At(f corev1.IPFamily, n Node) Places {
	if a.Primary {
		ip := n.Primary(f)
		if !ip.IsValid() || ip.IsLoopback() {
			return Places{}
		}
		return Places{Ranges: []netip.Prefix{netip.PrefixFrom(ip, ip.BitLen())}}
	}
	var ranges []netip.Prefix
	for _, p := range a.Ranges {
		if isFamily(p.Addr(), f) {
			ranges = append(ranges, p.Masked())
		}
	}
	localhost := a.Localhost && f == corev1.IPv4Protocol
	if len(ranges) == 0 || slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Bits() == 0 }) {
		return Places{All: true, Loopback: localhost}
	}
	loopback := Loopback(f)
	out := Places{Loopback: localhost && slices.ContainsFunc(ranges, loopback.Overlaps)}
	for _, p := range ranges {
		if out.Loopback {
			out.Ranges = append(out.Ranges, p)
		} else {
			out.Ranges = append(out.Ranges, excluding(p, loopback)...)
		}
	}
	slices.SortFunc(out.Ranges, netip.Prefix.Compare)
	out.Ranges = slices.Compact(out.Ranges)
	return out
}

// Loopback are the loopback addresses of a family.
func Loopback(f corev1.IPFamily) netip.Prefix {
	if f == corev1.IPv6Protocol {
		return netip.PrefixFrom(netip.IPv6Loopback(), 128)
	}
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8)
}

// Has says whether a is one of the places.
func (p Places) Has(a netip.Addr) bool {
	if p.All {
		return p.Loopback || !a.IsLoopback()
	}
	return slices.ContainsFunc(p.Ranges, func(r netip.Prefix) bool { return r.Contains(a) })
}

// Equal says whether two are the same places.
func (p Places) Equal(o Places) bool {
	return p.All == o.All && p.Loopback == o.Loopback && slices.Equal(p.Ranges, o.Ranges)
}

// excluding is the range p without the addresses of hole, as the fewest ranges.
func excluding(p, hole netip.Prefix) []netip.Prefix {
	switch {
	case !p.Overlaps(hole):
		return []netip.Prefix{p}
	case hole.Bits() <= p.Bits():
		return nil
	}
	low, high := halves(p)
	return append(excluding(low, hole), excluding(high, hole)...)
}

// halves splits a range of more than one address in the middle.
func halves(p netip.Prefix) (low, high netip.Prefix) {
	bits := p.Bits()
	b := p.Addr().AsSlice()
	b[bits/8] |= 0x80 >> (bits % 8)
	upper, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(p.Addr(), bits+1), netip.PrefixFrom(upper, bits+1)
}
