package iptables

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/proxier/iptables/rules"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// Tool is what an Engine needs of the iptables programs of one family. Program is the real one;
// internal/fakekernel has another.
type Tool interface {
	// Save returns the text of iptables-save.
	Save(ctx context.Context) ([]byte, error)
	// Restore passes text to iptables-restore --noflush. The kernel takes each table of it whole
	// or not at all. A refusal is a RefusedError.
	Restore(ctx context.Context, text []byte) error
	// Delete removes a rule from a built-in chain, if it exists.
	Delete(ctx context.Context, j rules.Jump) error
}

// EngineConfig is what an Engine is made of.
type EngineConfig struct {
	Family corev1.IPFamily
	// Jumps are the rules in built-in chains, in their order.
	Jumps []rules.Jump
	// Tool is a Program for the kernel.
	Tool Tool
	// Log gets one line for each takeover.
	Log *slog.Logger
	// Metrics may be nil.
	Metrics *Metrics
}

// Engine keeps a Ruleset in the kernel. Its life: the first Apply reads the kernel, writes
// everything and removes chains of Services that are not wanted; later ones write what changed
// since; after an error, or when a check found a difference, the next writes everything again. Its
// methods may be called from any goroutine.
type Engine struct {
	c EngineConfig

	mu         sync.Mutex
	applied    *rules.Ruleset      // nil: the kernel's state is not known
	generation uint64              // of the kernel with applied in it; 0: not known
	checked    uint64              // the generation that QuickCheck has checked last
	found      []snapshot.Frontend // in the kernel's rules before the first Apply
}

// NewEngine checks the configuration; it does nothing yet.
func NewEngine(c EngineConfig) (*Engine, error) {
	if c.Family == "" || c.Tool == nil || c.Log == nil {
		return nil, errors.New("making the iptables engine: Family, Tool and Log are needed")
	}
	return &Engine{c: c}, nil
}

// Apply makes the kernel hold want and the jumps.
func (e *Engine) Apply(ctx context.Context, want *rules.Ruleset) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.applied == nil {
		return e.takeover(ctx, want)
	}
	change := rules.Diff(e.applied, want)
	if change.Empty() {
		e.applied = want
		return nil
	}
	e.applied = nil
	before, _ := e.readGeneration()
	if err := e.restore(ctx, change, true); err != nil {
		return fmt.Errorf("writing changed %s rules: %w", e.c.Family, err)
	}
	e.applied = want
	e.expect(before, uint64(len(change.Tables)))
	e.c.Metrics.wrote(e.c.Family, want, change)
	return nil
}

// Known says whether the kernel's state is known, so that the next Apply writes only what changed.
func (e *Engine) Known() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.applied != nil
}

// Forget has the next Apply write everything.
func (e *Engine) Forget() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.applied = nil
}

// takeover writes everything, whatever the kernel holds.
func (e *Engine) takeover(ctx context.Context, want *rules.Ruleset) error {
	parse := rules.Outline
	if e.found == nil {
		parse = rules.OutlineWithFrontends
	}
	kernel, err := e.read(ctx, parse)
	if err != nil {
		return err
	}
	if e.found == nil {
		e.found = rules.UDPFrontends(kernel)
	}
	change := rules.Takeover(kernel, want, e.c.Jumps)
	before, _ := e.readGeneration()
	if err := e.restore(ctx, change, false); err != nil {
		return fmt.Errorf("writing all %s rules: %w", e.c.Family, err)
	}
	writes, err := e.removeIPVS(ctx, kernel, true)
	if err != nil {
		e.c.Log.Warn("Removing the rules of kube-proxy's mode ipvs failed", "family", e.c.Family, "err", err)
	}
	e.applied = want
	e.expect(before, uint64(len(change.Tables)+writes))
	e.c.Metrics.wrote(e.c.Family, want, change)
	e.c.Log.Info("Wrote all service rules", "family", e.c.Family, "nat", want.Rules("nat"), "filter", want.Rules("filter"),
		"staleChains", change.Removed("nat"), "missingJumps", len(rules.Missing(kernel, e.c.Jumps)))
	return nil
}

// restore applies a change; a RefusedError gets the rule that was refused.
func (e *Engine) restore(ctx context.Context, change *rules.Ruleset, partial bool) error {
	err := e.c.Tool.Restore(ctx, change.Bytes())
	if err == nil {
		return nil
	}
	e.c.Metrics.failed(e.c.Family, partial)
	var refused *RefusedError
	if errors.As(err, &refused) && refused.Line > 0 {
		if lines := strings.Split(change.String(), "\n"); refused.Line <= len(lines) {
			refused.Rule = lines[refused.Line-1]
		}
	}
	return err
}

func (e *Engine) read(ctx context.Context, parse func([]byte) (*rules.Ruleset, error)) (*rules.Ruleset, error) {
	text, err := e.c.Tool.Save(ctx)
	var kernel *rules.Ruleset
	if err == nil {
		kernel, err = parse(text)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the kernel's rules: %w", err)
	}
	return kernel, nil
}

// FoundUDP are the frontends of UDP in the kernel's rules before the first Apply; nil until then.
func (e *Engine) FoundUDP() []snapshot.Frontend {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.found
}

// Cleanup removes the jumps and every chain of ours, and nothing else. Established connections
// keep their translation in conntrack as long as any rule on the node uses it: with the last one
// Linux stops translating.
func (e *Engine) Cleanup(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.applied = nil
	kernel, err := e.read(ctx, rules.Outline)
	if err != nil {
		return err
	}
	if _, err := e.delete(ctx, rules.Present(kernel, append(rules.IPVSJumps(), e.c.Jumps...))); err != nil {
		return err
	}
	change := rules.Removal(kernel)
	if change.Empty() {
		return nil
	}
	if err := e.c.Tool.Restore(ctx, change.Bytes()); err != nil {
		return fmt.Errorf("removing the chains of Services: %w", err)
	}
	return nil
}

// RemoveGuards removes the last rules of kube-proxy's mode ipvs, those that protect the host while
// it has the addresses of Services. The first Apply has removed the others. It works twice.
func (e *Engine) RemoveGuards(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	kernel, err := e.read(ctx, rules.Outline)
	if err != nil {
		return err
	}
	before, _ := e.readGeneration()
	writes, err := e.removeIPVS(ctx, kernel, false)
	if err == nil && e.applied != nil && before == e.generation {
		e.expect(before, uint64(writes))
	}
	return err
}

// removeIPVS removes the rules of mode ipvs; it returns how often it wrote.
func (e *Engine) removeIPVS(ctx context.Context, kernel *rules.Ruleset, keepGuards bool) (writes int, err error) {
	jumps, change := rules.IPVSRemoval(kernel, keepGuards)
	if writes, err = e.delete(ctx, jumps); err != nil || change.Empty() {
		return writes, err
	}
	if err := e.c.Tool.Restore(ctx, change.Bytes()); err != nil {
		return writes, fmt.Errorf("removing the chains of kube-proxy's mode ipvs: %w", err)
	}
	return writes + len(change.Tables), nil
}

// delete deletes jumps; it returns how many.
func (e *Engine) delete(ctx context.Context, jumps []rules.Jump) (deleted int, all error) {
	for _, j := range jumps {
		if err := e.c.Tool.Delete(ctx, j); err != nil {
			all = errors.Join(all, fmt.Errorf("deleting the jump from %s of table %q to %s: %w", j.From, j.Table, j.To(), err))
			continue
		}
		deleted++
	}
	return deleted, all
}
