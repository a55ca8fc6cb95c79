package iptables

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// A kube-proxy in mode ipvs shares chains with us and has some of its own: it filters with ip sets
// what IPVS spreads. Its jumps into the shared chains have other conditions than ours, so they go
// as soon as ours stand: what is established goes through IPVS still, and would meet rules that are
// for what is new.

// guards keep what is sent to a Service's address, but not to its port, from the host's own ports,
// as long as the host has that address (kubernetes #72236).
func guards() []string { return []string{"KUBE-IPVS-FILTER", "KUBE-IPVS-OUT-FILTER"} }

// ipvsChains are chains of mode ipvs in a table, which mode iptables has not. Guards come first,
// since they may stay longer.
func ipvsChains(table string) []string {
	switch table {
	case "filter":
		return append(guards(), "KUBE-NODE-PORT", "KUBE-SOURCE-RANGES-FIREWALL")
	case "nat":
		return []string{"KUBE-NODE-PORT", "KUBE-LOAD-BALANCER"}
	}
	return nil
}

// ipvsJumps are the rules of mode ipvs in built-in chains, which mode iptables has not.
func ipvsJumps() []Jump {
	jump := func(from, to, comment string) Jump {
		return Jump{Table: "filter", From: from, Rule: []string{"-m", "comment", "--comment", comment, "-j", to}}
	}
	return []Jump{
		jump("INPUT", chainProxyFirewall, "kube-proxy firewall rules"),
		jump("FORWARD", chainProxyFirewall, "kube-proxy firewall rules"),
		jump("INPUT", "KUBE-NODE-PORT", "kubernetes health check rules"),
		jump("INPUT", "KUBE-IPVS-FILTER", "kubernetes ipvs access filter"),
		jump("OUTPUT", "KUBE-IPVS-OUT-FILTER", "kubernetes ipvs access filter"),
	}
}

// dropIPVS removes the jumps and chains of mode ipvs that the kernel has, but with keepGuards not
// the guards; it returns how often it wrote.
func (b *Backend) dropIPVS(ctx context.Context, kernel *Ruleset, keepGuards bool) (writes int, err error) {
	kept := func(chain string) bool { return keepGuards && slices.Contains(guards(), chain) }
	jumps := slices.DeleteFunc(ipvsJumps(), func(j Jump) bool { return kept(j.Rule[len(j.Rule)-1]) })
	for _, j := range present(kernel, jumps) {
		if err := b.c.Tool.Delete(ctx, j); err != nil {
			return writes, fmt.Errorf("deleting kube-proxy's jump from %s to %s: %w", j.From, j.Rule[len(j.Rule)-1], err)
		}
		writes++
	}
	change := &Ruleset{}
	for _, t := range kernel.Tables {
		gone := Table{Name: t.Name}
		for _, c := range t.Chains {
			if slices.Contains(ipvsChains(t.Name), c.Name) && !kept(c.Name) {
				gone.Remove = append(gone.Remove, c.Name)
			}
		}
		if len(gone.Remove) > 0 {
			change.Tables = append(change.Tables, gone)
		}
	}
	if change.Empty() {
		return writes, nil
	}
	if err := b.c.Tool.Restore(ctx, change.Bytes()); err != nil {
		return writes, fmt.Errorf("removing kube-proxy's chains of mode ipvs: %w", err)
	}
	return writes + len(change.Tables), nil
}

// RemoveGuards removes what is left of a kube-proxy's rules in mode ipvs once the host has no
// Service's address any more. Sync removes the rest. It works twice.
func (b *Backend) RemoveGuards(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	kernel, err := b.read(ctx, outline)
	if err != nil {
		return err
	}
	before, _ := b.marked()
	writes, err := b.dropIPVS(ctx, kernel, false)
	if err == nil && b.applied != nil && before == b.mark {
		b.expect(before, uint64(writes))
	}
	return err
}

func (b *Backend) read(ctx context.Context, understand func([]byte) (*Ruleset, error)) (*Ruleset, error) {
	text, err := b.c.Tool.Save(ctx)
	var kernel *Ruleset
	if err == nil {
		kernel, err = understand(text)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the kernel's rules: %w", err)
	}
	return kernel, nil
}

// deleteJumps deletes those of the jumps that the kernel has.
func (b *Backend) deleteJumps(ctx context.Context, kernel *Ruleset, jumps []Jump) error {
	var all error
	for _, j := range present(kernel, jumps) {
		if err := b.c.Tool.Delete(ctx, j); err != nil {
			all = errors.Join(all, fmt.Errorf("deleting the jump from %s of table %q: %w", j.From, j.Table, err))
		}
	}
	return all
}
