package rules

import (
	"fmt"
	"slices"
	"strings"
)

// Drift lists how the kernel differs from want: chains of ours that are missing or
// have other rules, and jumps that are missing. Other chains are not drift. It is
// in the order of want; nil: no difference.
func Drift(kernel, want *Ruleset, jumps []Jump) []string {
	var out []string
	for _, t := range want.Tables {
		live := map[string]string{}
		for _, c := range kernel.table(t.Name).Chains {
			live[c.Name] = c.Rules
		}
		for _, c := range t.Chains {
			rules, ok := live[c.Name]
			switch {
			case !ok:
				out = append(out, fmt.Sprintf("chain %s of table %s is missing", c.Name, t.Name))
			case !sameRules(rules, c.Rules) && (!unordered(c.Name) || !sameSet(rules, c.Rules)):
				out = append(out, fmt.Sprintf("chain %s of table %s has other rules", c.Name, t.Name))
			}
		}
	}
	for _, j := range Missing(kernel, jumps) {
		out = append(out, fmt.Sprintf("the jump from %s of table %s to %s is missing", j.From, j.Table, j.To()))
	}
	return out
}

func sameRules(a, b string) bool {
	if a == b {
		return true
	}
	if strings.Count(a, "\n") != strings.Count(b, "\n") {
		return false
	}
	left, right := strings.SplitAfter(a, "\n"), strings.SplitAfter(b, "\n")
	return slices.EqualFunc(left, right, func(x, y string) bool { return x == y || canonical(x) == canonical(y) })
}

// sameSet is sameRules for unordered chains, where inserted rules stand elsewhere.
// The jump to node ports must be the last all the same.
func sameSet(a, b string) bool {
	if strings.Count(a, "\n") != strings.Count(b, "\n") {
		return false
	}
	left, right := canonicals(a), canonicals(b)
	last := len(left) - 1
	if strings.Contains(right[last], "-j "+chainNodePorts) && left[last] != right[last] {
		return false
	}
	slices.Sort(left)
	slices.Sort(right)
	return slices.Equal(left, right)
}

func canonicals(rules string) []string {
	out := strings.Split(strings.TrimSuffix(rules, "\n"), "\n")
	for i, rule := range out {
		out[i] = canonical(rule)
	}
	return out
}

// Missing are the jumps that the kernel does not have.
func Missing(kernel *Ruleset, jumps []Jump) []Jump {
	return slices.DeleteFunc(slices.Clone(jumps), existing(kernel))
}

// Present are the jumps that the kernel has.
func Present(kernel *Ruleset, jumps []Jump) []Jump {
	exists := existing(kernel)
	return slices.DeleteFunc(slices.Clone(jumps), func(j Jump) bool { return !exists(j) })
}

// existing returns a function that says whether the kernel has a jump.
func existing(kernel *Ruleset) func(Jump) bool {
	found := map[string]bool{}
	for _, t := range kernel.Tables {
		for _, c := range t.Chains {
			if owned(t.Name, c.Name) {
				continue
			}
			for _, rule := range strings.Split(strings.TrimSuffix(c.Rules, "\n"), "\n") {
				found[t.Name+" "+c.Name+" "+canonical(rule)] = true
			}
		}
	}
	return func(j Jump) bool { return found[j.Table+" "+j.From+" "+canonical(j.line())] }
}

// line is the jump as a rule of a save text.
func (j Jump) line() string {
	quoted := make([]string, len(j.Rule))
	for i, word := range j.Rule {
		if strings.Contains(word, " ") {
			word = `"` + word + `"`
		}
		quoted[i] = word
	}
	return "-A " + j.From + " " + strings.Join(quoted, " ")
}
