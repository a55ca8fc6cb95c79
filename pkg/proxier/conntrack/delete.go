// Package conntrack is EDGE: it deletes the UDP flows that rules of the past
// keep alive. plan.go, which says which those are, is PURE. It reads and
// deletes entries of the kernel's connection tracking through netlink, and
// changes nothing else.
package conntrack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// Config is what a Cleaner is made of.
type Config struct {
	Family corev1.IPFamily
	Log    *slog.Logger
	// NodePorts say on which addresses node ports answer: flows to others are of other programs.
	NodePorts snapshot.NodePortAddresses
	// Now is the clock.
	Now func() time.Time
	// Portals are those of the rules that this process found; may be nil.
	Portals func() []snapshot.Portal
	// Done is told of each pass over the kernel's table; may be nil.
	Done func(deleted int, took time.Duration)
}

// Cleaner is a proxier.Observer: after each sync that changed a UDP port it
// goes over the kernel's table once.
type Cleaner struct{ c Config }

// New checks the configuration; it does nothing yet.
func New(c Config) (*Cleaner, error) {
	if c.Log == nil || c.Now == nil {
		return nil, errors.New("making the conntrack cleaner: Log and Now are needed")
	}
	return &Cleaner{c}, nil
}

// Synced deletes what is stale.
func (c *Cleaner) Synced(_ context.Context, prev, now *snapshot.Snapshot) error {
	if !Changed(prev, now) {
		return nil
	}
	family := netlink.InetFamily(unix.AF_INET)
	if c.c.Family == corev1.IPv6Protocol {
		family = unix.AF_INET6
	}
	local, err := localAddresses(int(family))
	if err != nil {
		return fmt.Errorf("listing this node's addresses: %w", err)
	}
	past := Past{Snapshot: prev}
	if prev == nil && c.c.Portals != nil {
		past.Portals = c.c.Portals()
	}
	places := c.c.NodePorts.At(c.c.Family, now.Node)
	plan := NewPlan(past, now, slices.DeleteFunc(local, func(a netip.Addr) bool { return !places.Has(a) }))
	if plan.Empty() {
		return nil
	}
	begin := c.c.Now()
	deleted, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, matcher{plan})
	took := c.c.Now().Sub(begin)
	if err != nil {
		return fmt.Errorf("deleting stale UDP flows (is the kernel module nf_conntrack_netlink there?): %w", err)
	}
	if deleted > 0 {
		c.c.Log.Info("deleted stale UDP flows", "family", c.c.Family, "flows", deleted, "took", took)
	}
	if c.c.Done != nil {
		c.c.Done(int(deleted), took)
	}
	return nil
}

func localAddresses(family int) ([]netip.Addr, error) {
	list, err := netlink.AddrList(nil, family)
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, a := range list {
		if addr, ok := netip.AddrFromSlice(a.IP); ok {
			out = append(out, addr.Unmap())
		}
	}
	return out, nil
}

// matcher is the plan for netlink's own loop over the table.
type matcher struct{ plan *Plan }

// MatchConntrackFlow says whether netlink is to delete the flow.
func (m matcher) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	if f.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	dst, ok1 := netip.AddrFromSlice(f.Forward.DstIP)
	src, ok2 := netip.AddrFromSlice(f.Reverse.SrcIP)
	return ok1 && ok2 && m.plan.Stale(Flow{
		OrigDst:  netip.AddrPortFrom(dst.Unmap(), f.Forward.DstPort),
		ReplySrc: netip.AddrPortFrom(src.Unmap(), f.Reverse.SrcPort),
	})
}
