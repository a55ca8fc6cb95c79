// Package leftovers is EDGE: it takes away what kube-proxy in another mode
// left on the node, once our rules do its work. Of mode nftables that is the
// table kube-proxy of a family: connections go on, since conntrack keeps their
// translation. Of mode ipvs it is virtual servers, the device kube-ipvs0 and ip
// sets: IPVS itself translates, so they are shut for what is new, and
// go when the last connection through them has ended; ipvsplan.go, which says
// what may go, is PURE. It touches nothing of other programs: their
// virtual servers have addresses that are not on kube-ipvs0.
package leftovers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/google/nftables"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
	"github.com/nodeagent/nodeagent/pkg/sleep"
)

// table is kube-proxy's in mode nftables (KEP-3866).
const table = "kube-proxy"

const (
	// firstWait and lastWait bound the pause between two looks at connections that are still there;
	// it doubles.
	firstWait = 2 * time.Second
	lastWait  = time.Minute
)

// Config is what a Cleaner is made of.
type Config struct {
	Family corev1.IPFamily
	// Rules removes the last of kube-proxy's iptables rules; nil: they are none of ours.
	Rules Rules
	// NodeIP is the address that this node's programs are to have as their own when they connect to
	// Services; the zero value: as it comes.
	NodeIP netip.Addr
	// Exclude are addresses of virtual servers that are not kube-proxy's, though they look so:
	// KubeProxyConfiguration ipvs.excludeCIDRs.
	Exclude []netip.Prefix
	Log     *slog.Logger
}

// Rules is the role of a Backend that knows kube-proxy's rules of mode ipvs.
type Rules interface {
	// RemoveGuards removes those that protect the host while it has Services' addresses.
	RemoveGuards(ctx context.Context) error
}

// Cleaner cleans once, after the first sync: until then packets have the old rules. What has to
// wait for connections to end, Run does.
type Cleaner struct {
	c     Config
	mu    sync.Mutex
	done  bool
	drain *drain
	begun chan struct{} // has an element when there is something to wait for
}

// New checks the configuration; it does nothing yet.
func New(c Config) (*Cleaner, error) {
	if c.Log == nil || c.Family == "" {
		return nil, errors.New("making the cleaner of kube-proxy's leftovers: Family and Log are needed")
	}
	return &Cleaner{c: c, drain: &drain{c: c}, begun: make(chan struct{}, 1)}, nil
}

// Synced implements proxier.Observer.
func (c *Cleaner) Synced(ctx context.Context, _, _ *snapshot.Snapshot) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done {
		return nil
	}
	if _, err := c.nftables(); err != nil {
		return err
	}
	found, err := c.drain.find()
	if err != nil {
		return err
	}
	if found {
		waiting, err := c.drain.pass(ctx)
		if err != nil {
			return fmt.Errorf("cleaning up after kube-proxy's mode ipvs: %w", err)
		}
		c.tell(waiting)
		if waiting > 0 {
			c.begun <- struct{}{} // the only one ever
		}
	}
	c.done = true
	return nil
}

func (c *Cleaner) tell(waiting int) {
	if waiting == 0 {
		c.c.Log.Info("removed what kube-proxy's mode ipvs left", "family", c.c.Family)
		return
	}
	c.c.Log.Info("kube-proxy ran in mode ipvs: what serves connections that were made then stays until they have ended, and takes no new ones",
		"family", c.c.Family, "connections", waiting)
}

// Run removes what connections were waited for, when they have ended. It blocks until ctx is done,
// and returns nil then.
func (c *Cleaner) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-c.begun:
	}
	for wait := firstWait; ; wait = min(2*wait, lastWait) {
		if sleep.For(ctx, wait) != nil {
			return nil
		}
		c.mu.Lock()
		waiting, err := c.drain.pass(ctx)
		c.mu.Unlock()
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // the end was asked for
		case err != nil:
			c.c.Log.Error("cleaning up after kube-proxy's mode ipvs failed", "family", c.c.Family, "error", err)
		case waiting == 0:
			c.tell(0)
			<-ctx.Done()
			return nil
		}
	}
}

// Found says whether there is anything of mode ipvs.
func (c *Cleaner) Found() (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.drain.find()
}

// Clean removes everything at once, and says what it did. Connections through IPVS end. It works
// twice.
func (c *Cleaner) Clean(ctx context.Context) (did []string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	deleted, err := c.nftables()
	if deleted {
		did = append(did, fmt.Sprintf("removed kube-proxy's nftables table (%s)", c.c.Family))
	}
	found, err2 := c.drain.now(ctx)
	if found && err2 == nil {
		did = append(did, fmt.Sprintf("removed kube-proxy's virtual servers and ip sets (%s)", c.c.Family))
	}
	return did, errors.Join(err, err2)
}

// nftables deletes kube-proxy's table, and says whether there was one.
func (c *Cleaner) nftables() (deleted bool, err error) {
	family := nftables.TableFamilyIPv4
	if c.c.Family == corev1.IPv6Protocol {
		family = nftables.TableFamilyIPv6
	}
	conn, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("looking for kube-proxy's nftables rules: %w", err)
	}
	tables, err := conn.ListTablesOfFamily(family)
	if err != nil {
		c.c.Log.Debug("no nftables on this machine", "family", c.c.Family, "err", err)
		return false, nil
	}
	for _, t := range tables {
		if t.Name != table {
			continue
		}
		conn.DelTable(t)
		if err := conn.Flush(); err != nil {
			return false, fmt.Errorf("deleting kube-proxy's nftables table of %s (nft delete table): %w", c.c.Family, err)
		}
		deleted = true
		c.c.Log.Info("deleted the nftables rules that kube-proxy left", "family", c.c.Family)
	}
	return deleted, nil
}
