package iptables

import "strings"

// Diff is what has to be applied to come from have to want: chains that are new
// or differ, and the names of those to remove. have nil means that nothing is known:
// the answer is all of want.
//
// Tables are taken one after the other, iptables-nft 10 to 25 ms apart, and packets come in
// between. Rules of table filter are for what nat has not translated, so they come before nat's
// lose a translation, and go after nat's have gained one: then a connection is refused or led to an
// endpoint, and never lost. It also makes a new endpoint known soonest.
func Diff(have, want *Ruleset) *Ruleset {
	if have == nil {
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
		changes[t.Name] = diffTable(have.table(t.Name), t)
	}
	first, last := changes["filter"], Table{}
	if len(changes["nat"].Chains)+len(changes["nat"].Remove) > 0 {
		first, last = around(have.table("filter"), changes["filter"])
	}
	add(first)
	add(changes["nat"])
	add(last)
	add(changes["mangle"])
	return out
}

// around splits a change of table filter into what is to be done before nat's and after it: if
// rules both come and go, those that come are inserted first.
func around(have, change Table) (before, after Table) {
	before, after = Table{Name: change.Name}, Table{Name: change.Name, Remove: change.Remove}
	rules := make(map[string]string, len(have.Chains))
	for _, c := range have.Chains {
		rules[c.Name] = c.Rules
	}
	for _, c := range change.Chains {
		old, known := rules[c.Name]
		come, gone := "", false
		if c.Insert == "" {
			come, gone = moved(old, c.Rules)
		}
		switch {
		case !known || !gone:
			before.Chains = append(before.Chains, c)
			continue
		case come != "":
			before.Chains = append(before.Chains, Chain{Name: c.Name, Insert: come})
		}
		after.Chains = append(after.Chains, c)
	}
	return before, after
}

// moved are the rules of after that are not in before, to be inserted, and whether any of before is
// not in after.
func moved(before, after string) (come string, gone bool) {
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

// insertion is a rule to be put first in its chain.
func insertion(rule string) string { return "-I" + strings.TrimPrefix(rule, "-A") }

func diffTable(have, want Table) Table {
	out := Table{Name: want.Name}
	have.Chains, want.Chains = trim(have.Chains, want.Chains)
	before := make(map[string]string, len(have.Chains))
	for _, c := range have.Chains {
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
	for _, c := range have.Chains { // in their order, for the same answer each time
		if _, left := before[c.Name]; left {
			out.Remove = append(out.Remove, c.Name)
		}
	}
	return out
}

// few is the number of rules up to which a chain is written whole.
const few = 100

// inserted are the rules to put first in a long chain without order, if that
// is all to be done: iptables-nft takes a tenth of the time for it. Else it is
// empty. The rule that must be the last is among those that were there.
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

// unordered says that at most one rule of a chain matches a packet, but for
// the jump to node ports at its end.
func unordered(chain string) bool {
	return chain == chainServices || chain == chainNodePorts || chain == chainExternal
}

// trim leaves out what is the same at both ends: of thousands of chains, few
// change, and unchanged text is the same memory, which is fast to compare.
func trim(a, b []Chain) (restA, restB []Chain) {
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
