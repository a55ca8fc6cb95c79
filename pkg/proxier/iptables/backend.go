package iptables

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/nodeagent/nodeagent/pkg/proxier/iptables/rules"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// Config is what a Backend is made of.
type Config struct {
	// Options; the caller sets RandomFully from Program.RandomFully.
	Options rules.Options
	// Tool is a Program for the kernel.
	Tool Tool
	Log  *slog.Logger
	// Metrics may be nil.
	Metrics *Metrics
}

// Backend programs snapshots with an Engine. It implements proxier.Backend, QuickChecker, Finder
// and ipvs.Guards. Its methods may be called from any goroutine.
type Backend struct {
	*Engine

	mu       sync.Mutex
	renderer *rules.Renderer
	patience int // Checks until refused rules are tried again
}

// New checks the configuration; it does nothing yet.
func New(c Config) (*Backend, error) {
	if c.Options.MasqueradeBit < 0 || c.Options.MasqueradeBit > 31 {
		return nil, fmt.Errorf("making the iptables backend: masquerade bit %d is not within 0..31", c.Options.MasqueradeBit)
	}
	e, err := NewEngine(EngineConfig{Family: c.Options.Family, Jumps: rules.Jumps(c.Options), Tool: c.Tool, Log: c.Log, Metrics: c.Metrics})
	if err != nil {
		return nil, err
	}
	return &Backend{Engine: e, renderer: rules.NewRenderer(c.Options)}, nil
}

// Sync makes the kernel do what s says. A port whose rules iptables-restore refuses is left out,
// and everything else is written; the error is then a snapshot.LeftOutError. Such a port is tried
// again when it changes, and now and then.
func (b *Backend) Sync(ctx context.Context, s *snapshot.Snapshot) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.Known() {
		b.renderer.RenderAll()
	}
	for {
		err := b.Apply(ctx, b.renderer.Render(s))
		if err == nil {
			return snapshot.LeftOut(b.renderer.LeftOut())
		}
		var refused *RefusedError
		if !errors.As(err, &refused) || len(b.renderer.LeftOut()) >= maxLeftOut {
			return err
		}
		port := b.renderer.Named(refused.Rule+"\n"+refused.Said, s)
		if port == nil {
			return err
		}
		b.renderer.LeaveOut(port, err.Error())
		b.patience = retryChecks
	}
}

// Check is Engine.Check; now and then it has refused rules tried again.
func (b *Backend) Check(ctx context.Context) (drift []string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.Known() && b.retryRefused() {
		b.Forget()
		return []string{"rules that were refused are tried again"}, nil
	}
	return b.Engine.Check(ctx)
}
