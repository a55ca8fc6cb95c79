package ipvs

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	mobyipvs "github.com/moby/ipvs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/pkg/proxier/ipvs/drain"
)

// handle is the kernel's IPVS in one family.
type handle struct {
	*mobyipvs.Handle
	family int
}

// open returns nil if this network namespace has no IPVS: asking such a kernel would load the
// module.
func (l *Leaver) open() (*handle, error) {
	if _, err := os.Stat("/proc/thread-self/net/ip_vs"); err != nil {
		return nil, nil //nolint:nilerr // no IPVS, no virtual servers
	}
	h, err := mobyipvs.New("")
	if err != nil {
		return nil, fmt.Errorf("opening IPVS: %w", err)
	}
	return &handle{h, l.family()}, nil
}

func (h *handle) close() {
	if h != nil {
		h.Close()
	}
}

func (h *handle) servers() ([]drain.Server, error) {
	all, err := h.GetServices()
	if err != nil {
		return nil, fmt.Errorf("listing virtual servers: %w", err)
	}
	var out []drain.Server
	for _, v := range all {
		addr, ok := netip.AddrFromSlice(v.Address)
		if !ok || int(v.AddressFamily) != h.family || v.FWMark != 0 {
			continue
		}
		s := drain.Server{At: netip.AddrPortFrom(addr.Unmap(), v.Port), Protocol: uint8(v.Protocol)}
		behind, err := h.GetDestinations(v)
		if err != nil {
			return nil, fmt.Errorf("listing real servers of %s: %w", s.At, err)
		}
		for _, r := range behind {
			s.Flows += r.ActiveConnections + r.InactiveConnections
			s.Open = s.Open || r.Weight > 0
		}
		out = append(out, s)
	}
	return out, nil
}

// service is the server as netlink names it.
func (h *handle) service(s drain.Server) *mobyipvs.Service {
	return &mobyipvs.Service{AddressFamily: uint16(h.family), Protocol: uint16(s.Protocol), Port: s.At.Port(), Address: s.At.Addr().AsSlice()}
}

// quiesce gives all real servers of a virtual server the weight 0: existing connections go on.
func (h *handle) quiesce(s drain.Server) error {
	v := h.service(s)
	behind, err := h.GetDestinations(v)
	if err != nil {
		return fmt.Errorf("listing real servers of %s: %w", s.At, err)
	}
	for _, r := range behind {
		if r.Weight == 0 {
			continue
		}
		r.Weight = 0
		if err := h.UpdateDestination(v, r); err != nil {
			return fmt.Errorf("quiescing a real server of %s: %w", s.At, err)
		}
	}
	return nil
}

func (h *handle) remove(s drain.Server) error {
	if err := ignore(h.DelService(h.service(s)), unix.ESRCH); err != nil {
		return fmt.Errorf("deleting virtual server %s: %w", s.At, err)
	}
	return nil
}

// existingSets are the names of kube-proxy's ip sets that exist.
func existingSets(ipv6 bool) (out []string) {
	if _, err := os.Stat("/sys/module/ip_set"); err != nil {
		return nil // asking a kernel without ip sets would load the module
	}
	number := uint16(1)
	for _, name := range drain.SetNames(ipv6) {
		if _, err := netlink.IpsetTest(name, &netlink.IPSetEntry{Port: &number}); !errors.Is(err, unix.ENOENT) {
			out = append(out, name) // any other answer comes from a set
		}
	}
	return out
}

// portsIn are the node ports in an ip set. Sets of SCTP hold addresses besides, since IPVS has no
// bitmaps for it, and the library can only test whether an entry is in such a set: ports without a
// virtual server are not found.
func portsIn(set string, s drain.State) map[drain.Port]bool {
	out := map[drain.Port]bool{}
	protocol := setProtocol(set)
	if protocol != unix.IPPROTO_SCTP {
		list, err := netlink.IpsetList(set)
		if err != nil {
			return nil // there is no such set
		}
		for _, e := range list.Entries {
			if e.Port != nil {
				out[drain.Port{Protocol: protocol, Number: *e.Port}] = true
			}
		}
		return out
	}
	for _, v := range s.Servers {
		if v.Protocol != protocol || !s.Local[v.At.Addr()] {
			continue
		}
		number := v.At.Port()
		has, err := netlink.IpsetTest(set, &netlink.IPSetEntry{Port: &number, Protocol: &protocol, IP: v.At.Addr().AsSlice()})
		if has && err == nil {
			out[drain.Port{Protocol: protocol, Number: number}] = true
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
