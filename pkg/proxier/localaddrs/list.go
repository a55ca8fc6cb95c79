package localaddrs

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
)

// listTries is how often addresses are listed again after a change interrupted the listing.
const listTries = 5

// List returns the addresses of all interfaces, sorted, each once. It skips the interface except,
// on which a proxy backend keeps addresses of Services, and IPv6 link-local addresses: every
// interface of a pod has one, and it means nothing without its interface.
func List(except string) ([]netip.Addr, error) {
	var found []netlink.Addr
	var err error
	for range listTries {
		if found, err = netlink.AddrList(nil, netlink.FAMILY_ALL); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("listing this machine's addresses: %w", err)
	}
	skip := 0
	if link, err := netlink.LinkByName(except); err == nil {
		skip = link.Attrs().Index
	}
	out := make([]netip.Addr, 0, len(found))
	for _, a := range found {
		addr, ok := netip.AddrFromSlice(a.IP)
		if addr = addr.Unmap(); ok && a.LinkIndex != skip && (addr.Is4() || !addr.IsLinkLocalUnicast()) {
			out = append(out, addr)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out), nil
}
