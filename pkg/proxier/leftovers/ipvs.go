package leftovers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/moby/ipvs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// bridge is the device that kube-proxy keeps the Services' addresses on in mode ipvs.
const bridge = "kube-ipvs0"

// drain is what kube-proxy's mode ipvs left of one family, on its way out.
type drain struct {
	c    Config
	link netlink.Link // nil: gone already
}

func (d *drain) ipv6() bool { return d.c.Family == corev1.IPv6Protocol }

func (d *drain) family() int {
	if d.ipv6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// find says whether anything is left of the family. The device, which both share, goes last.
func (d *drain) find() (bool, error) {
	d.link = nil
	link, err := netlink.LinkByName(bridge)
	var none netlink.LinkNotFoundError
	switch {
	case errors.As(err, &none):
	case err != nil:
		return false, fmt.Errorf("looking for %s: %w", bridge, err)
	default:
		d.link = link
		left, err := d.global(unix.AF_UNSPEC)
		if err != nil {
			return false, err
		}
		own, err := d.global(d.family())
		if err != nil || len(own) > 0 || len(left) == 0 {
			return err == nil, err
		}
	}
	return len(d.sets()) > 0, nil
}

// global are the device's addresses that Services may have.
func (d *drain) global(family int) ([]netip.Addr, error) {
	list, err := netlink.AddrList(d.link, family)
	if err != nil {
		return nil, fmt.Errorf("listing addresses of %s: %w", bridge, err)
	}
	var out []netip.Addr
	for _, a := range list {
		if addr, ok := netip.AddrFromSlice(a.IP); ok && !addr.Unmap().IsLinkLocalUnicast() {
			out = append(out, addr.Unmap())
		}
	}
	return out, nil
}

// sets are the names of those of kube-proxy's ip sets that there are.
func (d *drain) sets() (out []string) {
	if _, err := os.Stat("/sys/module/ip_set"); err != nil {
		return nil // asking a kernel that has none would load the module
	}
	number := uint16(1)
	for _, name := range setNames(d.ipv6()) {
		if _, err := netlink.IpsetTest(name, &netlink.IPSetEntry{Port: &number}); !errors.Is(err, unix.ENOENT) {
			out = append(out, name) // any other answer is of a set
		}
	}
	return out
}

// handle opens IPVS; nil: there is none in this namespace. Asking a kernel that has none would load
// the module.
func handle() (*ipvs.Handle, error) {
	if _, err := os.Stat("/proc/thread-self/net/ip_vs"); err != nil {
		return nil, nil //nolint:nilerr // no IPVS, no virtual servers
	}
	h, err := ipvs.New("")
	if err != nil {
		return nil, fmt.Errorf("opening IPVS: %w", err)
	}
	return h, nil
}

// look reads what there is, but not where connections start.
func (d *drain) look(h *ipvs.Handle) (state, error) {
	s := state{nodePorts: map[port]bool{}, local: map[netip.Addr]bool{}, exclude: d.c.Exclude}
	var err error
	if d.link != nil {
		if s.addresses, err = d.global(d.family()); err != nil {
			return s, err
		}
	}
	all, err := netlink.AddrList(nil, d.family())
	if err != nil {
		return s, fmt.Errorf("listing this node's addresses: %w", err)
	}
	for _, a := range all {
		if addr, ok := netip.AddrFromSlice(a.IP); ok && (d.link == nil || a.LinkIndex != d.link.Attrs().Index) {
			s.local[addr.Unmap()] = true
		}
	}
	if h == nil {
		return s, nil
	}
	if s.servers, err = d.servers(h); err != nil {
		return s, err
	}
	for _, set := range portSets(d.ipv6()) {
		for p := range portsIn(set, s) {
			s.nodePorts[p] = true
		}
	}
	return s, nil
}

// portsIn are the node ports in an ip set, so far as there are servers for them. Sets of SCTP,
// which IPVS has no bitmaps for, hold addresses, too: the library can only ask for what may be in
// them, the others it can only read.
func portsIn(set string, s state) map[port]bool {
	out := map[port]bool{}
	protocol := setProtocol(set)
	if protocol != unix.IPPROTO_SCTP {
		list, err := netlink.IpsetList(set)
		if err != nil {
			return nil // not there
		}
		for _, e := range list.Entries {
			if e.Port != nil {
				out[port{protocol, *e.Port}] = true
			}
		}
		return out
	}
	for _, v := range s.servers {
		if v.protocol != protocol || !s.local[v.at.Addr()] {
			continue
		}
		number := v.at.Port()
		has, err := netlink.IpsetTest(set, &netlink.IPSetEntry{Port: &number, Protocol: &protocol, IP: v.at.Addr().AsSlice()})
		if has && err == nil {
			out[port{protocol, number}] = true
		}
	}
	return out
}

func setProtocol(name string) uint8 {
	switch {
	case strings.Contains(name, "-UDP"):
		return unix.IPPROTO_UDP
	case strings.Contains(name, "-SCTP"):
		return unix.IPPROTO_SCTP
	}
	return unix.IPPROTO_TCP
}

func (d *drain) servers(h *ipvs.Handle) ([]server, error) {
	all, err := h.GetServices()
	if err != nil {
		return nil, fmt.Errorf("listing virtual servers: %w", err)
	}
	var out []server
	for _, v := range all {
		addr, ok := netip.AddrFromSlice(v.Address)
		if !ok || int(v.AddressFamily) != d.family() || v.FWMark != 0 {
			continue
		}
		s := server{at: netip.AddrPortFrom(addr.Unmap(), v.Port), protocol: uint8(v.Protocol)}
		behind, err := h.GetDestinations(v)
		if err != nil {
			return nil, fmt.Errorf("listing real servers of %s: %w", s.at, err)
		}
		for _, r := range behind {
			s.flows += r.ActiveConnections + r.InactiveConnections
			s.open = s.open || r.Weight > 0
		}
		out = append(out, s)
	}
	return out, nil
}

// kernel is the server as netlink names it.
func (d *drain) kernel(s server) *ipvs.Service {
	return &ipvs.Service{AddressFamily: uint16(d.family()), Protocol: uint16(s.protocol), Port: s.at.Port(), Address: s.at.Addr().AsSlice()}
}

// shut gives a server's real servers no new connections. Those that there are go on.
func (d *drain) shut(h *ipvs.Handle, s server) error {
	v := d.kernel(s)
	behind, err := h.GetDestinations(v)
	if err != nil {
		return fmt.Errorf("listing real servers of %s: %w", s.at, err)
	}
	for _, r := range behind {
		if r.Weight == 0 {
			continue
		}
		r.Weight = 0
		if err := h.UpdateDestination(v, r); err != nil {
			return fmt.Errorf("shutting a real server of %s: %w", s.at, err)
		}
	}
	return nil
}

// unname has programs of this node connect to a Service from the node's own address, as before
// kube-proxy: as long as the Service's is an address of the node, too, Linux would take that, and
// the connection would end with it.
func (d *drain) unname(a netip.Addr) error {
	if !d.c.NodeIP.IsValid() || d.c.NodeIP.Is6() != a.Is6() {
		return nil
	}
	route, err := ownRoute(a)
	if err != nil {
		return err
	}
	route.Src = d.c.NodeIP.AsSlice()
	err = netlink.RouteReplace(route)
	// the kernel's own has another metric: it is not replaced, but goes before this one
	if err == nil && a.Is6() {
		route.LinkIndex, route.Src = d.link.Attrs().Index, nil
		err = gone(netlink.RouteDel(route), unix.ESRCH)
	}
	if err != nil {
		return fmt.Errorf("changing the source of connections to %s: %w", a, err)
	}
	return nil
}

// ownRoute says that an address is the host's own. IPv6 wants a device that is up, which kube-ipvs0
// never is.
func ownRoute(a netip.Addr) (*netlink.Route, error) {
	device, scope := bridge, netlink.SCOPE_HOST
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

// gone is err, unless it says that there is no such thing.
func gone(err, none error) error {
	if errors.Is(err, none) {
		return nil
	}
	return err
}

// release takes an address off the bridge.
func (d *drain) release(a netip.Addr) error {
	route, err := ownRoute(a)
	if err == nil {
		err = gone(netlink.RouteDel(route), unix.ESRCH)
	}
	if err == nil {
		err = gone(netlink.AddrDel(d.link, &netlink.Addr{IPNet: single(a)}), unix.EADDRNOTAVAIL)
	}
	if err != nil {
		return fmt.Errorf("taking %s off %s: %w", a, bridge, err)
	}
	return nil
}

// carryOut does what a plan says, addresses before servers: a packet that comes between is for
// nobody, rather than for the host.
func (d *drain) carryOut(h *ipvs.Handle, p plan) error {
	var all error
	for _, a := range p.release {
		all = errors.Join(all, d.release(a))
	}
	for _, s := range p.remove {
		if err := gone(h.DelService(d.kernel(s)), unix.ESRCH); err != nil {
			all = errors.Join(all, fmt.Errorf("deleting virtual server %s: %w", s.at, err))
		}
	}
	return all
}

// finish removes what only stood as long as addresses did: guards, sets, and, with the last address
// of either family, the device.
func (d *drain) finish(ctx context.Context) error {
	if d.c.Rules != nil {
		if err := d.c.Rules.RemoveGuards(ctx); err != nil {
			return err
		}
	}
	var all error
	for _, name := range d.sets() {
		if err := netlink.IpsetDestroy(name); err != nil {
			all = errors.Join(all, fmt.Errorf("destroying ip set %q (who else uses it: iptables-save | grep %[1]s): %w", name, err))
		}
	}
	if all != nil || d.link == nil {
		return all
	}
	if left, err := d.global(unix.AF_UNSPEC); err != nil || len(left) > 0 {
		return err // the other family's, or others' altogether
	}
	if err := netlink.LinkDel(d.link); err != nil {
		return fmt.Errorf("deleting %s: %w", bridge, err)
	}
	return nil
}

// sources are where tracked connections start.
func (d *drain) sources() (map[netip.Addr]bool, error) {
	flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, netlink.InetFamily(d.family()))
	if err != nil {
		return nil, fmt.Errorf("listing tracked connections (is the kernel module nf_conntrack_netlink there?): %w", err)
	}
	out := map[netip.Addr]bool{}
	for _, f := range flows {
		if a, ok := netip.AddrFromSlice(f.Forward.SrcIP); ok {
			out[a.Unmap()] = true
		}
	}
	return out, nil
}

// pass does what can be done now, and says how many connections it waits for.
func (d *drain) pass(ctx context.Context) (waiting int, err error) {
	found, err := d.find()
	if err != nil || !found {
		return 0, err
	}
	h, err := handle()
	if err != nil {
		return 0, err
	}
	if h != nil {
		defer h.Close()
	}
	s, err := d.look(h)
	if err != nil {
		return 0, err
	}
	for _, v := range newPlan(s).shut {
		err = errors.Join(err, d.shut(h, v))
	}
	for _, a := range s.addresses {
		if !s.excluded(a) {
			err = errors.Join(err, d.unname(a))
		}
	}
	if err != nil {
		return 0, err
	}
	// Counted after nothing new can come.
	if s, err = d.look(h); err != nil {
		return 0, err
	}
	if len(s.addresses) > 0 {
		if s.sources, err = d.sources(); err != nil {
			return 0, err
		}
	}
	p := newPlan(s)
	if err := d.carryOut(h, p); err != nil {
		return 0, err
	}
	if p.waiting > 0 {
		return p.waiting, nil
	}
	return 0, d.finish(ctx)
}

// now takes everything away, whoever uses it, and says whether there was anything.
func (d *drain) now(ctx context.Context) (bool, error) {
	found, err := d.find()
	if err != nil || !found {
		return false, err
	}
	h, err := handle()
	if err != nil {
		return true, err
	}
	if h != nil {
		defer h.Close()
	}
	s, err := d.look(h)
	if err != nil {
		return true, err
	}
	return true, errors.Join(d.carryOut(h, newPlan(s.ended())), d.finish(ctx))
}
