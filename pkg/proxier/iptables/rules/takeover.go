package rules

import "slices"

// Takeover is the change that makes the kernel, whose outline is known, hold want and jumps: all
// of want, the jumps that are missing, and the removal of chains of Services that want does not
// have.
func Takeover(kernel, want *Ruleset, jumps []Jump) *Ruleset {
	change := &Ruleset{Tables: slices.Clone(want.Tables)}
	stale, missing := staleChains(kernel, want), Missing(kernel, jumps)
	for i, t := range change.Tables {
		change.Tables[i].Remove = stale[t.Name]
		change.Tables[i].Chains = append(slices.Clone(t.Chains), insertions(t.Name, missing)...)
	}
	return change
}

// insertions put the jumps of one table first in their built-in chains, in the order given.
func insertions(table string, jumps []Jump) []Chain {
	var out []Chain
	for _, j := range slices.Backward(jumps) { // each is put first, so the first one comes last
		if j.Table == table {
			out = append(out, Chain{Name: j.From, Insert: insertion(j.line()) + "\n"})
		}
	}
	return out
}

// staleChains are chains of Services in the kernel that want does not have, by table.
func staleChains(kernel, want *Ruleset) map[string][]string {
	out := map[string][]string{}
	for _, t := range kernel.Tables {
		known := map[string]bool{}
		for _, c := range want.table(t.Name).Chains {
			known[c.Name] = true
		}
		for _, c := range t.Chains {
			if owned(t.Name, c.Name) && perService(c.Name) && !known[c.Name] {
				out[t.Name] = append(out[t.Name], c.Name)
			}
		}
	}
	return out
}

// Removal is the change that removes every chain of ours, and of kube-proxy in modes iptables and
// ipvs, that the kernel has.
func Removal(kernel *Ruleset) *Ruleset {
	return remove(kernel, func(table, chain string) bool {
		return owned(table, chain) || slices.Contains(ipvsChains(table), chain)
	})
}

func remove(kernel *Ruleset, gone func(table, chain string) bool) *Ruleset {
	out := &Ruleset{}
	for _, t := range kernel.Tables {
		change := Table{Name: t.Name}
		for _, c := range t.Chains {
			if gone(t.Name, c.Name) {
				change.Remove = append(change.Remove, c.Name)
			}
		}
		if len(change.Remove) > 0 {
			out.Tables = append(out.Tables, change)
		}
	}
	return out
}
