package snapshot

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	netutils "k8s.io/utils/net"
)

// report gathers the problems of one object.
type report struct {
	object   string
	problems []Problem
}

// maxProblems bounds how many problems of one hostile object are kept and logged.
const maxProblems = 10

func (r *report) add(format string, args ...any) { r.addTo(r.object, format, args...) }

func (r *report) addTo(object, format string, args ...any) {
	if len(r.problems) < maxProblems {
		r.problems = append(r.problems, Problem{Object: object, Reason: fmt.Sprintf(format, args...)})
	}
}

func itoa(n int32) string { return strconv.Itoa(int(n)) }

func validPort(n int32) (uint16, bool) {
	if n < 1 || n > 65535 {
		return 0, false
	}
	return uint16(n), true
}

// parseAddr reads an address as the API stores it. Objects from before today's validation may have
// leading zeros in an IPv4 address, which are decimal, or an IPv4-mapped IPv6 address, which is
// IPv4.
func parseAddr(text string) (a netip.Addr, ok bool) {
	a, err := netip.ParseAddr(text)
	if err != nil {
		a, ok = netip.AddrFromSlice(netutils.ParseIPSloppy(text))
		return a.Unmap(), ok
	}
	return a.Unmap(), true
}

// parsePrefix is parseAddr for a CIDR.
func parsePrefix(text string) (p netip.Prefix, ok bool) {
	if p, err := netip.ParsePrefix(text); err == nil {
		return unmap(p)
	}
	_, n, err := netutils.ParseCIDRSloppy(text)
	if err != nil {
		return p, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	if !ok {
		return p, false
	}
	return unmap(netip.PrefixFrom(a, bits))
}

func unmap(p netip.Prefix) (netip.Prefix, bool) {
	if !p.Addr().Is4In6() {
		return p.Masked(), p.IsValid()
	}
	const mapped = 96 // bits before the IPv4 address
	p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-mapped)
	return p.Masked(), p.IsValid()
}

func isFamily(a netip.Addr, f corev1.IPFamily) bool {
	return a.Is4() && f == corev1.IPv4Protocol || a.Is6() && !a.Is4In6() && f == corev1.IPv6Protocol
}

// unusable says why an address must not be reached through a Service; empty: it
// may be. Loopback and link-local endpoints would lead to the node itself or to its
// cloud's metadata service.
func unusable(a netip.Addr) string {
	switch {
	case a.Zone() != "":
		return "has a zone"
	case a.IsUnspecified():
		return "is unspecified"
	case a.IsLoopback():
		return "is loopback"
	case a.IsLinkLocalUnicast():
		return "is link-local"
	case a.IsMulticast():
		return "is multicast"
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "is broadcast"
	}
	return ""
}

// clusterIP is the Service's address of the family; invalid: none.
func clusterIP(svc *corev1.Service, f corev1.IPFamily, r *report) netip.Addr {
	all := svc.Spec.ClusterIPs
	if len(all) == 0 {
		all = []string{svc.Spec.ClusterIP}
	}
	for _, text := range all {
		if text == "" || text == corev1.ClusterIPNone {
			continue
		}
		if found := addresses([]string{text}, f, "cluster IP", r); len(found) > 0 {
			return found[0]
		}
	}
	return netip.Addr{}
}

// addresses parses texts; it returns the addresses of the family, sorted, each once.
func addresses(texts []string, f corev1.IPFamily, what string, r *report) []netip.Addr {
	var out []netip.Addr
	for _, text := range texts {
		a, ok := parseAddr(text)
		if !ok {
			r.add("%s %s is not an address", what, quote(text))
			continue
		}
		if reason := unusable(a); reason != "" {
			r.add("%s %s %s", what, a, reason)
			continue
		}
		if isFamily(a, f) {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// loadBalancerIPs leaves out ipMode Proxy: such a load balancer must see the traffic (KEP-1860).
func loadBalancerIPs(svc *corev1.Service, f corev1.IPFamily, r *report) []netip.Addr {
	var texts []string
	for _, ingress := range svc.Status.LoadBalancer.Ingress {
		vip := ingress.IPMode == nil || *ingress.IPMode == corev1.LoadBalancerIPModeVIP
		if ingress.IP != "" && vip {
			texts = append(texts, ingress.IP)
		}
	}
	return addresses(texts, f, "load balancer IP", r)
}

// sourceRanges is empty if every source is allowed: no range is given, or one of
// all addresses of the family, or only that of all addresses of the other family. A
// range that cannot be parsed allows no source, and so do ranges of the other family
// alone.
func sourceRanges(texts []string, f corev1.IPFamily, r *report) []netip.Prefix {
	var out []netip.Prefix
	limited := false
	for _, text := range texts {
		p, ok := parsePrefix(strings.TrimSpace(text))
		if !ok {
			r.add("load balancer source range %s is not a CIDR", quote(text))
			out = append(out, nobody(f))
			continue
		}
		if !isFamily(p.Addr(), f) {
			limited = limited || p.Bits() > 0
			continue
		}
		if p.Bits() == 0 {
			return nil
		}
		out = append(out, p)
	}
	if len(out) == 0 && limited {
		r.add("load balancer source ranges are none of %s: no source is allowed", string(f))
		return []netip.Prefix{nobody(f)}
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return slices.Compact(out)
}

// nobody is a range that no packet comes from: the unspecified address.
func nobody(f corev1.IPFamily) netip.Prefix {
	if f == corev1.IPv6Protocol {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 128)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 32)
}

func anyContains(ranges []netip.Prefix, addrs []netip.Addr) bool {
	return slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return slices.ContainsFunc(addrs, p.Contains) })
}

// triggers parses the times that the endpoints controller wrote.
func triggers(sls []*discoveryv1.EndpointSlice) []Trigger {
	var out []Trigger
	for _, slice := range sls {
		at, err := time.Parse(time.RFC3339Nano, slice.Annotations[corev1.EndpointsLastChangeTriggerTime])
		if err == nil {
			out = append(out, Trigger{Slice: slice.Name, At: at})
		}
	}
	return out
}
