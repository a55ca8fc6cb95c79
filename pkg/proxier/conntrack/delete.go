// Package conntrack is EDGE: it deletes UDP flows whose translation is outdated;
// plan.go, which says which those are, is PURE. It reads and deletes entries of the
// kernel's connection tracking through netlink, and changes nothing else.
package conntrack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
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
	// Now is the clock.
	Now func() time.Time
	// Found are the frontends of UDP in the rules that this process took over; may be nil.
	Found func() []snapshot.Frontend
	// Done is called after each pass over the kernel's table; may be nil.
	Done func(deleted int, took time.Duration)
}

// Cleaner is a proxier.Observer: after each sync that changed a UDP port it
// searches the kernel's table once.
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
	past := Past{Snapshot: prev}
	if prev == nil && c.c.Found != nil {
		past.Frontends = c.c.Found()
	}
	plan := NewPlan(past, now)
	if plan.Empty() {
		return nil
	}
	begin := c.c.Now()
	deleted, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, matcher{plan})
	took := c.c.Now().Sub(begin)
	if err != nil {
		return fmt.Errorf("deleting stale UDP flows (is the kernel module nf_conntrack_netlink loaded?): %w", err)
	}
	if deleted > 0 {
		c.c.Log.Info("Deleted stale UDP flows", "family", c.c.Family, "flows", deleted, "took", took)
	}
	if c.c.Done != nil {
		c.c.Done(int(deleted), took)
	}
	return nil
}

// matcher is the plan as netlink's filter for its loop over the table.
type matcher struct{ plan *Plan }

// MatchConntrackFlow says whether netlink has to delete the flow.
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
