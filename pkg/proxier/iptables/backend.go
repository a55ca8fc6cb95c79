package iptables

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// Tool is what the backend needs of the iptables programs of one family.
// Program is the real one; internal/fakekernel has another.
type Tool interface {
	// Save returns the text of iptables-save.
	Save(ctx context.Context) ([]byte, error)
	// Restore gives text to iptables-restore --noflush. Each table of it is
	// taken whole or not at all.
	Restore(ctx context.Context, text []byte) error
	// Delete takes a rule out of a built-in chain, if it is there.
	Delete(ctx context.Context, j Jump) error
}

// Config is what a Backend is made of.
type Config struct {
	// Options; RandomFully is for the caller to set from Program.RandomFully.
	Options Options
	// Tool is Program for the kernel.
	Tool Tool
	// Log gets one line for each full sync and for what was found changed.
	Log *slog.Logger
	// Metrics may be nil.
	Metrics Metrics
}

// Metrics is told what Sync did.
type Metrics interface {
	// Wrote: number of rules in the table now, and written by this sync.
	Wrote(table string, total, last int)
	// Failed: iptables-restore failed; partial says that it was given a difference only.
	Failed(partial bool)
}

// Backend programs snapshots. Its life: the first Sync reads the kernel,
// writes everything and removes chains of Services that are gone; later ones
// write what changed since; after an error, or when Check found a difference,
// the next writes everything again. Its methods may be called from any goroutine.
type Backend struct {
	c     Config
	jumps []Jump

	mu       sync.Mutex
	renderer *Renderer
	applied  *Ruleset          // nil: the kernel's state is not known
	mark     uint64            // of the kernel with applied in it; 0: not known
	glanced  uint64            // the mark that Glance saw last
	patience int               // Checks until what was refused is tried again
	found    []snapshot.Portal // of the kernel's first rules
}

// New checks the configuration; it does nothing yet.
func New(c Config) (*Backend, error) {
	if c.Tool == nil || c.Log == nil {
		return nil, errors.New("making the iptables backend: Tool and Log are needed")
	}
	if c.Options.MasqueradeBit < 0 || c.Options.MasqueradeBit > 31 {
		return nil, fmt.Errorf("making the iptables backend: masquerade bit %d is not within 0..31", c.Options.MasqueradeBit)
	}
	return &Backend{c: c, jumps: Jumps(c.Options), renderer: NewRenderer(c.Options)}, nil
}

// Sync makes the kernel do what s says. A port whose rules iptables-restore
// refuses is left out, and everything else is written; the error is then a
// snapshot.LeftOutError. Such a port is tried again when it changes, and now and then.
func (b *Backend) Sync(ctx context.Context, s *snapshot.Snapshot) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.applied == nil {
		clear(b.renderer.left)
	}
	for {
		err := b.write(ctx, s)
		if err == nil {
			return b.leftOut()
		}
		port := b.culprit(err, s)
		if port == nil || b.renderer.left[port] != "" || len(b.renderer.left) >= maxLeft {
			return err
		}
		b.renderer.left[port] = err.Error()
		b.patience = retryChecks
	}
}

func (b *Backend) write(ctx context.Context, s *snapshot.Snapshot) error {
	want := b.renderer.Render(s)
	if b.applied == nil {
		return b.full(ctx, want)
	}
	change := Diff(b.applied, want)
	if change.Empty() {
		b.applied = want
		return nil
	}
	b.applied = nil
	before, _ := b.marked()
	if err := b.restore(ctx, change, true); err != nil {
		return fmt.Errorf("writing changed %s rules: %w", s.Family, err)
	}
	b.applied = want
	b.expect(before, uint64(len(change.Tables)))
	b.wrote(want, change)
	return nil
}

// restore applies a change; a refusal tells the rule.
func (b *Backend) restore(ctx context.Context, change *Ruleset, partial bool) error {
	err := b.c.Tool.Restore(ctx, change.Bytes())
	if err == nil {
		return nil
	}
	if b.c.Metrics != nil {
		b.c.Metrics.Failed(partial)
	}
	var refused *RefusedError
	if errors.As(err, &refused) && refused.Line > 0 {
		if lines := strings.Split(change.String(), "\n"); refused.Line <= len(lines) {
			refused.Rule = lines[refused.Line-1]
		}
	}
	return err
}

func (b *Backend) full(ctx context.Context, want *Ruleset) error {
	read := outline
	if b.found == nil {
		read = portalsToo
	}
	kernel, err := b.read(ctx, read)
	if err != nil {
		return err
	}
	if b.found == nil {
		b.found = udpPortals(kernel)
	}
	change := &Ruleset{Tables: slices.Clone(want.Tables)}
	gone, absent := stale(kernel, want), missing(kernel, b.jumps)
	for i, t := range change.Tables {
		change.Tables[i].Remove = gone[t.Name]
		change.Tables[i].Chains = append(slices.Clone(t.Chains), insertions(t.Name, absent)...)
	}
	before, _ := b.marked()
	if err := b.restore(ctx, change, false); err != nil {
		return fmt.Errorf("writing all rules: %w", err)
	}
	writes, err := b.dropIPVS(ctx, kernel, true)
	if err != nil {
		b.c.Log.Warn("rules of a kube-proxy in mode ipvs are left", "family", b.c.Options.Family, "err", err)
	}
	b.applied = want
	b.expect(before, uint64(len(change.Tables)+writes))
	b.wrote(want, change)
	b.c.Log.Info("wrote all service rules", "family", b.c.Options.Family, "nat", want.Rules("nat"), "filter", want.Rules("filter"),
		"staleChains", len(gone["nat"]), "jumps", len(absent))
	return nil
}

// insertions put the jumps of one table first in their built-in chains, in the order given.
func insertions(table string, jumps []Jump) []Chain {
	var out []Chain
	for _, j := range slices.Backward(jumps) { // each goes first, so the first goes last
		if j.Table == table {
			out = append(out, Chain{Name: j.From, Insert: insertion(j.line()) + "\n"})
		}
	}
	return out
}

func (b *Backend) wrote(want, change *Ruleset) {
	if b.c.Metrics == nil {
		return
	}
	for _, table := range []string{"filter", "nat"} {
		b.c.Metrics.Wrote(table, want.Rules(table), change.Rules(table))
	}
}

// Check compares the kernel with what was applied. If they differ, it says how
// and the next Sync writes everything. Before the first Sync nothing differs.
func (b *Backend) Check(ctx context.Context) (drift []string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.applied == nil {
		return nil, nil
	}
	if drift := b.tryAgain(); drift != nil {
		return drift, nil
	}
	mark, exact := b.marked()
	if exact && mark == b.mark {
		return nil, nil // nobody has written
	}
	kernel, err := b.read(ctx, Parse)
	if err != nil {
		return nil, err
	}
	drift = Drift(kernel, b.applied, b.jumps)
	if len(drift) > 0 {
		b.applied = nil
	}
	b.mark = mark
	return drift, nil
}

// Cleanup removes our jumps and chains, and nothing else. Established
// connections keep their translation in conntrack, for as long as any rule of
// anyone on the node uses it: with the last one Linux stops to translate.
func (b *Backend) Cleanup(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.applied = nil
	kernel, err := b.read(ctx, outline)
	if err != nil {
		return err
	}
	if err := b.deleteJumps(ctx, kernel, append(ipvsJumps(), b.jumps...)); err != nil {
		return err
	}
	change := removal(kernel)
	if change.Empty() {
		return nil
	}
	if err := b.c.Tool.Restore(ctx, change.Bytes()); err != nil {
		return fmt.Errorf("removing our chains: %w", err)
	}
	return nil
}

// removal deletes every chain of ours, and of a kube-proxy before us, that the kernel has.
func removal(kernel *Ruleset) *Ruleset {
	out := &Ruleset{}
	for _, t := range kernel.Tables {
		change := Table{Name: t.Name}
		for _, c := range t.Chains {
			if owned(t.Name, c.Name) || slices.Contains(ipvsChains(t.Name), c.Name) {
				change.Remove = append(change.Remove, c.Name)
			}
		}
		if len(change.Remove) > 0 {
			out.Tables = append(out.Tables, change)
		}
	}
	return out
}
