package nftables

import (
	"context"
	"fmt"

	"github.com/nodeagent/nodeagent/pkg/proxier/nftables/elements"
)

const (
	// maxLeft bounds how many ports are left out: past it, it is not they that are wrong.
	maxLeft = 20
	// retryChecks is after how many Checks what was refused is tried again.
	retryChecks = 10
)

// Check compares the kernel with what was applied. If they differ, it says how
// and the next Sync writes everything. Before the first Sync nothing differs.
func (b *Backend) Check(ctx context.Context) (drift []string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.applied == nil {
		return nil, nil
	}
	b.deleteStale(ctx)
	if drift := b.tryAgain(); drift != nil {
		return drift, nil
	}
	gen := b.generation()
	if gen != 0 && gen == b.gen {
		return nil, b.readRules(ctx, gen) // nobody has written
	}
	kernel, err := b.c.Kernel.All(ctx, elements.Read)
	if err != nil {
		return nil, fmt.Errorf("reading the nftables table: %w", err)
	}
	if b.generation() != gen {
		return nil, nil // somebody writes at this moment: the next look tells
	}
	if drift = elements.Drift(kernel, b.observed, b.applied); len(drift) > 0 {
		b.applied = nil
		return drift, nil
	}
	b.observed, b.gen = kernel, gen
	clear(b.unread)
	return nil, nil
}

// manyChains is from how many chains on it is cheaper to read all rules than those of each chain.
const manyChains = 100

// readRules reads the handles of rules that were written since they were read last, while nobody
// else has written, so that the rules are ours.
func (b *Backend) readRules(ctx context.Context, gen uint64) error {
	if b.observed == nil || len(b.unread) >= manyChains {
		kernel, err := b.c.Kernel.All(ctx, func(string) bool { return false })
		if err != nil {
			return fmt.Errorf("reading the nftables table: %w", err)
		}
		if b.generation() == gen {
			b.observed = kernel
			clear(b.unread)
		}
		return nil
	}
	for name, base := range b.unread {
		handles, err := b.c.Kernel.Rules(ctx, name)
		if err != nil {
			return fmt.Errorf("reading the rules of nftables chain %q: %w", name, err)
		}
		if b.generation() != gen {
			return nil
		}
		b.observed.Chains[name] = elements.ObservedChain{Base: base, Rules: handles}
		delete(b.unread, name)
	}
	return nil
}

// QuickCheck looks, at the cost of a system call, whether anyone has written since
// the last Sync, Check or QuickCheck. lost says that the table is gone, and that the
// next Sync writes everything.
func (b *Backend) QuickCheck(ctx context.Context) (written bool, lost string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.applied == nil {
		return false, "", nil
	}
	gen := b.generation()
	if gen == 0 || gen == b.gen || gen == b.quick {
		return false, "", nil
	}
	has, err := b.c.Kernel.Has(ctx, elements.Canary)
	if err != nil {
		return true, "", fmt.Errorf("looking for the nftables table: %w", err)
	}
	if !has {
		b.applied = nil
		return true, "the nftables table " + elements.TableName + " is gone", nil
	}
	b.quick = gen
	return true, "", nil
}

// tryAgain says so when it is time to try what was refused.
func (b *Backend) tryAgain() []string {
	if len(b.renderer.LeftOut()) == 0 {
		return nil
	}
	if b.patience--; b.patience > 0 {
		return nil
	}
	b.applied = nil
	return []string{"rules that were refused are tried again"}
}
