package iptables

import (
	"context"
	"fmt"

	"github.com/nodeagent/nodeagent/pkg/proxier/iptables/rules"
)

// Prober is a Tool that can look for one rule, or one chain.
type Prober interface {
	// Has says whether the rule exists; with an empty Rule, whether the chain From does.
	Has(ctx context.Context, j rules.Jump) (bool, error)
}

// Generator is a Tool that knows, at hardly any cost, whether anyone has written.
type Generator interface {
	// Generation is a number that changes with the kernel's rules. exact: each transaction of
	// anyone adds 1 to it; else some changes may leave it as it is.
	Generation() (generation uint64, exact bool, err error)
}

// readGeneration is 0 if the tool or the kernel has none.
func (e *Engine) readGeneration() (generation uint64, exact bool) {
	g, ok := e.c.Tool.(Generator)
	if !ok {
		return 0, false
	}
	generation, exact, err := g.Generation()
	if err != nil {
		e.c.Log.Debug("Reading the generation of the kernel's rules failed", "family", e.c.Family, "err", err)
		return 0, false
	}
	return generation, exact
}

// expect takes the kernel's generation for that of applied, unless somebody else may have written
// since before: our own transactions, at most that many, add 1 each.
func (e *Engine) expect(before, most uint64) {
	now, exact := e.readGeneration()
	e.generation = now
	if exact && now-before > most {
		e.generation = 0
	}
}

// Check compares the kernel with what was applied. If they differ, it says how, and the next Apply
// writes everything. Before the first Apply nothing differs.
func (e *Engine) Check(ctx context.Context) (drift []string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.applied == nil {
		return nil, nil
	}
	generation, exact := e.readGeneration()
	if exact && generation == e.generation {
		return nil, nil // nobody has written
	}
	kernel, err := e.read(ctx, rules.Parse)
	if err != nil {
		return nil, err
	}
	drift = rules.Drift(kernel, e.applied, e.c.Jumps)
	if len(drift) > 0 {
		e.applied = nil
	}
	e.generation = generation
	return drift, nil
}

// QuickCheck looks, at the cost of a system call, whether anyone has written since the last Apply,
// Check or QuickCheck. If so, it looks for the canaries and the most important jumps; lost names
// the first that is missing, and the next Apply writes everything.
func (e *Engine) QuickCheck(ctx context.Context) (written bool, lost string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	prober, ok := e.c.Tool.(Prober)
	if e.applied == nil || !ok {
		return false, "", nil
	}
	generation, _ := e.readGeneration()
	if generation == e.generation || generation == 0 || generation == e.checked {
		return false, "", nil
	}
	for _, j := range e.canaries() {
		has, err := prober.Has(ctx, j)
		if err != nil {
			return true, "", fmt.Errorf("looking for %s of table %q: %w", j.From, j.Table, err)
		}
		if !has {
			e.applied = nil
			return true, fmt.Sprintf("chain %s of table %s, or our rule in it, is missing", j.From, j.Table), nil
		}
	}
	e.checked = generation
	return true, "", nil
}

// canaries are chains and rules of which a flush of any table removes one.
func (e *Engine) canaries() []rules.Jump {
	var out []rules.Jump
	for _, t := range e.applied.Tables {
		for _, c := range t.Chains {
			if c.Name == rules.ChainCanary {
				out = append(out, rules.Jump{Table: t.Name, From: c.Name})
			}
		}
	}
	forward := false
	for _, j := range e.c.Jumps {
		if j.Table == "nat" || j.Table == "filter" && j.From == "FORWARD" && !forward {
			forward = forward || j.Table == "filter"
			out = append(out, j)
		}
	}
	return out
}
