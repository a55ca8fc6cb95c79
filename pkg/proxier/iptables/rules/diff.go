package rules

import "strings"

// Diff is the change from applied to want: chains that are new or differ, and the names of those
// to remove. If applied is nil, nothing is known, and the change is all of want.
//
// The kernel takes tables one after the other, iptables-nft 10 to 25 ms apart, and packets arrive
// in between. Rules of table filter refuse what nat has not translated, so they are added before
// nat stops to translate, and removed after it has begun to: a connection is always either refused
// or led to an endpoint. A new endpoint is reachable as soon as possible, too.
func Diff(applied, want *Ruleset) *Ruleset {
	if applied == nil {
		return want
	}
	out := &Ruleset{}
	add := func(t Table) {
		if len(t.Chains)+len(t.Remove) > 0 {
			out.Tables = append(out.Tables, t)
		}
	}
	changes := map[string]Table{}
	for _, t := range want.Tables {
		changes[t.Name] = diffTable(applied.table(t.Name), t)
	}
	first, last := changes["filter"], Table{}
	if len(changes["nat"].Chains)+len(changes["nat"].Remove) > 0 {
		first, last = around(applied.table("filter"), changes["filter"])
	}
	add(first)
	add(changes["nat"])
	add(last)
	add(changes["mangle"])
	return out
}

// around splits a change of table filter into what is done before the change of nat and after it:
// if a chain both gains and loses rules, the new ones are inserted first.
func around(applied, change Table) (before, after Table) {
	before, after = Table{Name: change.Name}, Table{Name: change.Name, Remove: change.Remove}
	rules := make(map[string]string, len(applied.Chains))
	for _, c := range applied.Chains {
		rules[c.Name] = c.Rules
	}
	for _, c := range change.Chains {
		old, known := rules[c.Name]
		added, removed := "", false
		if c.Insert == "" {
			added, removed = compare(old, c.Rules)
		}
		switch {
		case !known || !removed:
			before.Chains = append(before.Chains, c)
			continue
		case added != "":
			before.Chains = append(before.Chains, Chain{Name: c.Name, Insert: added})
		}
		after.Chains = append(after.Chains, c)
	}
	return before, after
}

// compare returns the rules of after that are not in before, to be inserted, and whether any rule
// of before is not in after.
func compare(before, after string) (added string, removed bool) {
	old := map[string]bool{}
	for line := range strings.Lines(before) {
		old[line] = true
	}
	var b strings.Builder
	for line := range strings.Lines(after) {
		if !old[line] {
			b.WriteString(insertion(line))
		}
		delete(old, line)
	}
	return b.String(), len(old) > 0
}

// insertion puts a rule first in its chain.
func insertion(rule string) string { return "-I" + strings.TrimPrefix(rule, "-A") }

func diffTable(applied, want Table) Table {
	out := Table{Name: want.Name}
	applied.Chains, want.Chains = withoutEqualEnds(applied.Chains, want.Chains)
	before := make(map[string]string, len(applied.Chains))
	for _, c := range applied.Chains {
		before[c.Name] = c.Rules
	}
	for _, c := range want.Chains {
		if rules, ok := before[c.Name]; !ok || rules != c.Rules {
			if more := inserted(c.Name, rules, c.Rules); more != "" {
				c = Chain{Name: c.Name, Insert: more}
			}
			out.Chains = append(out.Chains, c)
		}
		delete(before, c.Name)
	}
	for _, c := range applied.Chains { // in their order, so that the result is always the same
		if _, unwanted := before[c.Name]; unwanted {
			out.Remove = append(out.Remove, c.Name)
		}
	}
	return out
}

// few is the number of rules up to which a changed chain is written whole.
const few = 100

// inserted are the rules to put first in a long, unordered chain, if nothing else
// has to change: iptables-nft needs a tenth of the time for that. Otherwise it is
// empty. The rule that must be the last is one of the existing ones.
func inserted(chain, before, after string) string {
	if !unordered(chain) || strings.Count(before, "\n") < few {
		return ""
	}
	var b strings.Builder
	for line := range strings.Lines(after) {
		if rest, same := strings.CutPrefix(before, line); same {
			before = rest
			continue
		}
		b.WriteString(insertion(line))
	}
	if before != "" {
		return ""
	}
	return b.String()
}

// unordered says that at most one rule of a chain matches a packet, besides the
// jump to node ports at its end.
func unordered(chain string) bool {
	return chain == ChainServices || chain == chainNodePorts || chain == chainExternal
}

// withoutEqualEnds leaves out what is the same at both ends: of thousands of
// chains few change, and unchanged text is the same memory, which is fast to
// compare.
func withoutEqualEnds(a, b []Chain) (restA, restB []Chain) {
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	return a, b
}

func (r *Ruleset) table(name string) Table {
	for _, t := range r.Tables {
		if t.Name == name {
			return t
		}
	}
	return Table{Name: name}
}
