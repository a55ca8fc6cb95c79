// Package leftovers is EDGE: it takes away what kube-proxy in another mode
// left on the node, once our rules do its work. It deletes the nftables table
// kube-proxy of a family, and nothing else; connections that are established
// go on, since conntrack keeps their translation.
package leftovers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/google/nftables"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/service"
)

// table is kube-proxy's in mode nftables (KEP-3866).
const table = "kube-proxy"

// bridge is the device that kube-proxy keeps the Services' addresses on in mode ipvs.
const bridge = "kube-ipvs0"

// Config is what a Cleaner is made of.
type Config struct {
	Family corev1.IPFamily
	Log    *slog.Logger
}

// Cleaner cleans once, after the first sync: until then packets have the old rules.
type Cleaner struct {
	c    Config
	mu   sync.Mutex
	done bool
}

// New checks the configuration; it does nothing yet.
func New(c Config) (*Cleaner, error) {
	if c.Log == nil || c.Family == "" {
		return nil, errors.New("making the cleaner of kube-proxy's leftovers: Family and Log are needed")
	}
	return &Cleaner{c: c}, nil
}

// Synced implements proxier.Observer.
func (c *Cleaner) Synced(ctx context.Context, _, _ *service.Snapshot) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done {
		return nil
	}
	if err := c.Clean(ctx); err != nil {
		return err
	}
	c.done = true
	return nil
}

// Clean deletes what there is. It works twice.
func (c *Cleaner) Clean(context.Context) error {
	if _, err := os.Stat(filepath.Join("/sys/class/net", bridge)); err == nil {
		c.c.Log.Warn("kube-proxy ran in mode ipvs here: its virtual servers stay, out of use for new connections. Once old ones have ended, remove them: ipvsadm -C && ip link del "+bridge,
			"family", c.c.Family)
	}
	family := nftables.TableFamilyIPv4
	if c.c.Family == corev1.IPv6Protocol {
		family = nftables.TableFamilyIPv6
	}
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("looking for kube-proxy's nftables rules: %w", err)
	}
	tables, err := conn.ListTablesOfFamily(family)
	if err != nil {
		c.c.Log.Debug("no nftables on this machine", "family", c.c.Family, "err", err)
		return nil
	}
	for _, t := range tables {
		if t.Name != table {
			continue
		}
		conn.DelTable(t)
		if err := conn.Flush(); err != nil {
			return fmt.Errorf("deleting kube-proxy's nftables table of %s (nft delete table): %w", c.c.Family, err)
		}
		c.c.Log.Info("deleted the nftables rules that kube-proxy left", "family", c.c.Family)
	}
	return nil
}
