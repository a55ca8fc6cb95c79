package nftables

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"sigs.k8s.io/knftables"

	"github.com/nodeagent/nodeagent/pkg/proxier/nftables/elements"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

const (
	// staleAge is how long a chain that nothing leads to is kept. Kernels before 6.2 count
	// references of deleted elements for a moment longer.
	staleAge = time.Second
	// staleRetry is when stale chains that could not be deleted are tried again: a rule of another
	// program may lead to one.
	staleRetry = time.Minute
)

// Tool is what the backend needs of the program nft. knftables.Interface is
// the real one.
type Tool interface {
	NewTransaction() *knftables.Transaction
	Run(ctx context.Context, tx *knftables.Transaction) error
}

// Kernel reads the table kube-proxy of one family. Reader is the real one.
type Kernel interface {
	// Generation is the number of transactions that the kernel has taken from anyone.
	Generation() (uint64, error)
	// Names are the chains and sets, without rules and elements.
	Names(ctx context.Context) (*elements.Observed, error)
	// All is Names with the handles of all rules, and the elements of the sets for which read
	// says so.
	All(ctx context.Context, read func(set string) bool) (*elements.Observed, error)
	// Rules are the handles of a chain's rules.
	Rules(ctx context.Context, chain string) ([]uint64, error)
	// Has says whether a chain exists.
	Has(ctx context.Context, chain string) (bool, error)
}

// Config is what a Backend is made of.
type Config struct {
	Options elements.Options
	Tool    Tool
	Kernel  Kernel
	// Log gets one line for each full sync and for what was found changed.
	Log *slog.Logger
	// Metrics may be nil.
	Metrics *Metrics
	// Now is the clock.
	Now func() time.Time
}

// Backend programs snapshots. Its life: the first Sync takes over the table
// that the kernel has, if there is one, and writes everything; later ones write
// the elements and chains that changed since; after an error, or when Check
// found a difference, the next writes everything again. It implements
// proxier.Backend, QuickChecker, Waker and Finder. Its methods may be called
// from any goroutine.
type Backend struct {
	c Config

	mu       sync.Mutex
	renderer *elements.Renderer
	applied  *elements.Table      // nil: the kernel's state is not known
	observed *elements.Observed   // what the kernel had with applied in it; nil: not read
	unread   map[string]bool      // chains whose rules are not in observed; true: a base chain
	stale    map[string]time.Time // chains to delete, and when
	gen      uint64               // the kernel's generation with applied in it; 0: not known
	quick    uint64               // the generation that QuickCheck saw last
	patience int                  // Checks until what was refused is tried again
	found    []snapshot.Frontend  // of the kernel's first table
}

// New checks the configuration; it does nothing yet.
func New(c Config) (*Backend, error) {
	if c.Tool == nil || c.Kernel == nil || c.Log == nil || c.Now == nil {
		return nil, errors.New("making the nftables backend: Tool, Kernel, Log and Now are needed")
	}
	if c.Options.MasqueradeBit < 0 || c.Options.MasqueradeBit > 31 {
		return nil, fmt.Errorf("making the nftables backend: masquerade bit %d is not within 0..31", c.Options.MasqueradeBit)
	}
	return &Backend{c: c, renderer: elements.NewRenderer(c.Options), stale: map[string]time.Time{}, unread: map[string]bool{}}, nil
}

// Sync makes the kernel do what s says. A port of which the kernel refuses an
// operation is left out, and everything else is written; the error is then a
// snapshot.LeftOutError. Such a port is tried again when it changes, and now and then.
func (b *Backend) Sync(ctx context.Context, s *snapshot.Snapshot) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.applied == nil {
		b.renderer.RenderAll()
	}
	for {
		port, err := b.write(ctx, s)
		if err == nil {
			return snapshot.LeftOut(b.renderer.LeftOut())
		}
		b.c.Metrics.syncFailed(b.c.Options.Family)
		left := b.renderer.LeftOut()
		if port == nil || left[port] != "" || len(left) >= maxLeft {
			b.applied = nil
			return err
		}
		b.renderer.LeaveOut(port, err.Error())
		b.patience = retryChecks
	}
}

// write returns, with an error, the port whose operation was refused.
func (b *Backend) write(ctx context.Context, s *snapshot.Snapshot) (*snapshot.Port, error) {
	want := b.renderer.Render(s)
	if b.applied == nil {
		return b.full(ctx, want)
	}
	change := elements.Diff(b.applied, want)
	if len(change.Ops) == 0 {
		b.applied = want
		b.deleteStale(ctx)
		return nil, nil
	}
	b.deleteStale(ctx)
	before := b.generation()
	if port, err := b.run(ctx, change.Ops); err != nil {
		return port, fmt.Errorf("writing changed %s rules: %w", s.Family, err)
	}
	b.wrote(want, change, before)
	b.forget(change)
	return nil, nil
}

func (b *Backend) full(ctx context.Context, want *elements.Table) (*snapshot.Port, error) {
	kernel, err := b.c.Kernel.Names(ctx)
	if err != nil {
		return nil, err
	}
	if b.found == nil {
		all, err := b.c.Kernel.All(ctx, elements.Read)
		if err != nil {
			return nil, err
		}
		b.found = elements.UDPFrontends(all, b.c.Options)
	}
	change := elements.Replace(kernel, want)
	before := b.generation()
	port, err := b.run(ctx, change.Ops)
	if err != nil && port == nil && len(kernel.Chains)+len(kernel.Sets) > 0 {
		// What is there stands in the way: another program's chain that leads to ours, say.
		b.c.Log.Warn("The nftables table could not be taken over; it is made anew", "table", elements.TableName, "err", err)
		change = elements.Recreate(want)
		before = b.generation()
		port, err = b.run(ctx, change.Ops)
	}
	if err != nil {
		return port, fmt.Errorf("writing all rules: %w", err)
	}
	clear(b.stale)
	b.observed = nil
	clear(b.unread)
	b.wrote(want, change, before)
	b.c.Log.Info("Wrote all service rules", "family", b.c.Options.Family, "table", elements.TableName,
		"chains", want.Chains(), "rules", want.Rules(), "staleChains", len(change.Stale))
	return nil, nil
}

// wrote remembers a change that the kernel has taken. The generation is taken for ours if nobody
// else can have written since before: each transaction adds 1 to it.
func (b *Backend) wrote(want *elements.Table, change elements.Change, before uint64) {
	b.applied = want
	b.gen = b.generation()
	if b.gen-before > 1 {
		b.gen = 0
	}
	at := b.c.Now().Add(staleAge)
	for _, name := range change.Stale {
		b.stale[name] = at
	}
	for _, op := range change.Ops {
		if op.Verb == elements.Add && op.Chain != nil {
			delete(b.stale, op.Chain.Name)
		}
	}
}

// forget drops what was observed of chains that have other rules now.
func (b *Backend) forget(change elements.Change) {
	for _, op := range change.Ops {
		switch {
		case op.Rule != nil:
			b.unread[op.Rule.Chain.Name] = op.Rule.Chain.Base != nil
		case op.Chain != nil:
			b.unread[op.Chain.Name] = op.Chain.Base != nil
		}
	}
	for _, name := range change.Stale {
		delete(b.unread, name)
	}
	if b.observed != nil {
		for name := range b.unread {
			delete(b.observed.Chains, name)
		}
	}
}

// generation is 0 if the kernel cannot tell.
func (b *Backend) generation() uint64 {
	gen, err := b.c.Kernel.Generation()
	if err != nil {
		b.c.Log.Debug("It is not known whether another program wrote nftables rules", "err", err)
		return 0
	}
	return gen
}

// deleteStale deletes chains that have been without use for long enough. If it fails, it tries
// again after staleRetry.
func (b *Backend) deleteStale(ctx context.Context) {
	now := b.c.Now()
	var names []string
	for name, at := range b.stale {
		if !now.Before(at) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return
	}
	slices.Sort(names)
	before := b.generation()
	if _, err := b.run(ctx, elements.DeleteChains(names)); err != nil {
		b.c.Metrics.cleanupFailed(b.c.Options.Family)
		b.c.Log.Warn("Deleting stale nftables chains failed", "family", b.c.Options.Family, "chains", len(names), "err", err, "retryIn", staleRetry)
		b.postpone(ctx, names)
		return
	}
	if b.gen != 0 && b.gen == before {
		b.gen++
	}
	for _, name := range names {
		delete(b.stale, name)
	}
}

// postpone has the stale chains tried again later, except those that another program has deleted.
func (b *Backend) postpone(ctx context.Context, names []string) {
	kernel, err := b.c.Kernel.Names(ctx)
	for _, name := range names {
		b.stale[name] = b.c.Now().Add(staleRetry)
		if err != nil {
			continue
		}
		if _, has := kernel.Chains[name]; !has {
			delete(b.stale, name)
		}
	}
}

// WakeAt is when stale chains can be deleted; the zero value: there are none.
func (b *Backend) WakeAt() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	var first time.Time
	for _, at := range b.stale {
		if first.IsZero() || at.Before(first) {
			first = at
		}
	}
	return first
}

// FoundUDP are the frontends of UDP that the kernel's table had before this Backend wrote any; nil
// before the first Sync.
func (b *Backend) FoundUDP() []snapshot.Frontend {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.found
}

// Cleanup deletes the table, and nothing else. Established connections keep their translation in
// conntrack, for as long as any rule of anyone on the node uses it: with the last one Linux stops
// to translate.
func (b *Backend) Cleanup(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.applied, b.observed = nil, nil
	clear(b.stale)
	kernel, err := b.c.Kernel.Names(ctx)
	if err != nil {
		return err
	}
	if len(kernel.Chains)+len(kernel.Sets) == 0 {
		return nil
	}
	if _, err := b.run(ctx, []elements.Op{{Verb: elements.Add}, {Verb: elements.Delete}}); err != nil {
		return fmt.Errorf("deleting our nftables table (nft delete table %s %s): %w", family(b.c.Options.Family), elements.TableName, err)
	}
	return nil
}
