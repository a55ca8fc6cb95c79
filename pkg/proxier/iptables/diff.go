package iptables

// Diff is what has to be applied to come from have to want: chains that are new
// or differ, and the names of those to remove. have nil means that nothing is known:
// the answer is all of want. Applying it twice is the same as once.
func Diff(have, want *Ruleset) *Ruleset {
	if have == nil {
		return want
	}
	out := &Ruleset{}
	for _, table := range want.Tables {
		change := diffTable(have.table(table.Name), table)
		if len(change.Chains)+len(change.Remove) > 0 {
			out.Tables = append(out.Tables, change)
		}
	}
	return out
}

func diffTable(have, want Table) Table {
	out := Table{Name: want.Name}
	before := make(map[string]string, len(have.Chains))
	for _, c := range have.Chains {
		before[c.Name] = c.Rules
	}
	for _, c := range want.Chains {
		if rules, ok := before[c.Name]; !ok || rules != c.Rules {
			out.Chains = append(out.Chains, c)
		}
		delete(before, c.Name)
	}
	for _, c := range have.Chains { // in their order, for the same answer each time
		if _, left := before[c.Name]; left {
			out.Remove = append(out.Remove, c.Name)
		}
	}
	return out
}

func (r *Ruleset) table(name string) Table {
	for _, t := range r.Tables {
		if t.Name == name {
			return t
		}
	}
	return Table{Name: name}
}
