package iptables

import (
	"context"
	"fmt"
)

// Prober is what a Tool can do in addition: look for one rule, or one chain.
type Prober interface {
	Has(ctx context.Context, j Jump) (bool, error)
}

// marked is 0 if the tool or the kernel cannot tell.
func (b *Backend) marked() (mark uint64, exact bool) {
	m, ok := b.c.Tool.(Marker)
	if !ok {
		return 0, false
	}
	mark, exact, err := m.Mark()
	if err != nil {
		b.c.Log.Debug("not known whether anyone wrote rules", "err", err)
		return 0, false
	}
	return mark, exact
}

// expect takes the kernel's mark for ours, if nobody else can have written
// beside us since before: of each exact transaction 1 comes from us.
func (b *Backend) expect(before, most uint64) {
	now, exact := b.marked()
	b.mark = now
	if exact && now-before > most {
		b.mark = 0
	}
}

// Glance looks, at the cost of a system call, whether anyone has written since
// the last Sync, Check or Glance. If so, it looks for the canaries and the
// chief jumps: lost says that one of them is missing, and that the next Sync
// writes everything.
func (b *Backend) Glance(ctx context.Context) (written bool, lost string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	prober, ok := b.c.Tool.(Prober)
	if b.applied == nil || !ok {
		return false, "", nil
	}
	mark, _ := b.marked()
	if mark == b.mark || mark == 0 || mark == b.glanced {
		return false, "", nil
	}
	for _, j := range b.canaries() {
		has, err := prober.Has(ctx, j)
		if err != nil {
			return true, "", fmt.Errorf("looking for %s of table %q: %w", j.From, j.Table, err)
		}
		if !has {
			b.applied = nil
			return true, fmt.Sprintf("chain %s of table %s, or our rule in it, is missing", j.From, j.Table), nil
		}
	}
	b.glanced = mark
	return true, "", nil
}

// canaries are what a flush of any table takes away.
func (b *Backend) canaries() []Jump {
	out := []Jump{{Table: "mangle", From: chainCanary}, {Table: "nat", From: chainCanary}, {Table: "filter", From: chainCanary}}
	for _, j := range b.jumps {
		if j.Table == "nat" || j.Table == "filter" && j.From == "FORWARD" && len(out) < 4 {
			out = append(out, j)
		}
	}
	return out
}
