package elements

import (
	"maps"
	"slices"

	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// Verb is what an operation does.
type Verb string

// The verbs.
const (
	Add    Verb = "add"
	Delete Verb = "delete"
	Flush  Verb = "flush"
)

// Op is one operation of a transaction, on one object: exactly one of the fields is set, or none
// for the table itself.
type Op struct {
	Verb  Verb
	Chain *Chain // without its rules
	Rule  *Rule
	Set   *Set // without its elements
	Entry *Entry
}

// Rule is one rule, at the end of its chain.
type Rule struct {
	Chain *Chain
	Text  string
}

// Entry is one element of a set.
type Entry struct {
	Set *Set
	Element
}

// Change leads from one table to another. The kernel takes all of Ops at once, or none.
type Change struct {
	Ops []Op
	// Stale are chains that are empty now and that nothing leads to. They are deleted later
	// (DeleteChains): kernels before 6.2 notice only a moment after an element is gone that a
	// chain is free.
	Stale []string
}

// Diff leads from have to want. It costs little where they share most parts.
func Diff(have, want *Table) Change {
	return listingDiff(differing(have, want))
}

// differing are the parts of two tables that the other one does not have.
func differing(have, want *Table) (h, w *Listing) {
	h, w = have.fixed.list(0), want.fixed.list(0)
	if have.fixed != want.fixed {
		for _, c := range have.fixed.chains {
			h.Chains[c.Name] = c
		}
		for _, c := range want.fixed.chains {
			w.Chains[c.Name] = c
		}
	}
	gone, fresh := uncommon(have.fragments, want.fragments)
	concerned := map[place]bool{}
	for _, f := range gone {
		f.addChainsTo(h)
		f.concerns(concerned)
	}
	for _, f := range fresh {
		f.addChainsTo(w)
		f.concerns(concerned)
	}
	if len(concerned) == 0 {
		return h, w
	}
	// Another port may have an element of theirs as well: a pod behind two Services, a cluster IP
	// with two ports.
	have.pick(concerned, h)
	want.pick(concerned, w)
	return h, w
}

// place is the set and the key of an element.
type place struct{ set, key string }

func (f *fragment) concerns(places map[place]bool) {
	for _, e := range f.elements {
		places[place{e.set, e.Key}] = true
	}
}

// pick puts the elements at some places into a listing.
func (t *Table) pick(places map[place]bool, l *Listing) {
	for _, f := range t.fragments {
		for _, e := range f.elements {
			if places[place{e.set, e.Key}] {
				e.addTo(l)
			}
		}
	}
}

// uncommon are the fragments that only one of two tables has.
func uncommon(have, want []*fragment) (gone, fresh []*fragment) {
	for len(have) > 0 && len(want) > 0 && have[0] == want[0] {
		have, want = have[1:], want[1:]
	}
	for len(have) > 0 && len(want) > 0 && have[len(have)-1] == want[len(want)-1] {
		have, want = have[:len(have)-1], want[:len(want)-1]
	}
	wanted := make(map[*fragment]bool, len(want))
	for _, f := range want {
		wanted[f] = true
	}
	for _, f := range have {
		if wanted[f] {
			delete(wanted, f)
		} else {
			gone = append(gone, f)
		}
	}
	for _, f := range want {
		if wanted[f] {
			fresh = append(fresh, f)
		}
	}
	return gone, fresh
}

func listingDiff(have, want *Listing) Change {
	var c Change
	for _, name := range sorted(want.Sets, func(s *Set) bool { return have.Sets[s.Name] == nil }) {
		c.op(Op{Verb: Add, Set: want.Sets[name]})
	}
	changed := changedChains(have, want)
	for _, name := range changed {
		if have.Chains[name] == nil {
			c.op(Op{Verb: Add, Chain: want.Chains[name]})
		}
	}
	for _, name := range changed {
		if have.Chains[name] != nil {
			c.op(Op{Verb: Flush, Chain: have.Chains[name]})
		}
	}
	c.Stale = sorted(have.Chains, func(h *Chain) bool { return want.Chains[h.Name] == nil })
	for _, name := range c.Stale {
		c.op(Op{Verb: Flush, Chain: have.Chains[name]})
	}
	c.removeSets(have, want)
	for _, name := range changed {
		c.rules(want.Chains[name])
	}
	for _, name := range sorted(want.Sets, nil) {
		c.addElements(have.Sets[name], want.Sets[name])
	}
	return c
}

// changedChains have other rules in want, or lead to a set that is another one there: it is
// deleted, and until then no rule may lead to it.
func changedChains(have, want *Listing) []string {
	remade := map[*snapshot.Port]bool{}
	for _, w := range want.Sets {
		if h := have.Sets[w.Name]; h != nil && !h.alike(w) {
			remade[w.Port] = true
		}
	}
	return sorted(want.Chains, func(w *Chain) bool {
		h := have.Chains[w.Name]
		return h == nil || remade[w.Port] || !h.same(w)
	})
}

// removeSets deletes elements and sets that want does not have, or has otherwise.
func (c *Change) removeSets(have, want *Listing) {
	for _, name := range sorted(have.Sets, nil) {
		c.removeElements(have.Sets[name], want.Sets[name])
	}
	for _, name := range sorted(have.Sets, func(h *Set) bool { return want.Sets[h.Name] == nil || !want.Sets[h.Name].alike(h) }) {
		c.op(Op{Verb: Delete, Set: have.Sets[name]})
		if again := want.Sets[name]; again != nil {
			c.op(Op{Verb: Add, Set: again})
		}
	}
}

func (c *Change) op(o Op) { c.Ops = append(c.Ops, o) }

func (c *Change) rules(chain *Chain) {
	for _, text := range chain.Rules {
		c.op(Op{Verb: Add, Rule: &Rule{Chain: chain, Text: text}})
	}
}

// removeElements deletes those that want does not have, or has otherwise. Elements of a set that
// is deleted go with it.
func (c *Change) removeElements(have, want *Set) {
	if want == nil || !want.alike(have) {
		return
	}
	for _, key := range sorted(have.Elements, func(e Element) bool {
		w, ok := want.Elements[e.Key]
		return !ok || !w.same(e)
	}) {
		c.op(Op{Verb: Delete, Entry: &Entry{Set: have, Element: have.Elements[key]}})
	}
}

func (c *Change) addElements(have, want *Set) {
	fresh := have == nil || !have.alike(want)
	for _, key := range sorted(want.Elements, func(e Element) bool {
		if fresh {
			return true
		}
		h, ok := have.Elements[e.Key]
		return !ok || !h.same(e)
	}) {
		c.op(Op{Verb: Add, Entry: &Entry{Set: want, Element: want.Elements[key]}})
	}
}

// sorted are the keys whose values are asked for, in order; ask nil: all.
func sorted[V any](m map[string]V, ask func(V) bool) []string {
	var out []string
	for key, value := range m {
		if ask == nil || ask(value) {
			out = append(out, key)
		}
	}
	slices.Sort(out)
	return out
}

// Replace leads from a table of which only the names are known, of a kube-proxy
// or of an agent before this one, to table. Sets that remember clients stay, so
// that clients keep their endpoints.
func Replace(kernel *Observed, table *Table) Change {
	var c Change
	want := table.List()
	c.op(Op{Verb: Add})
	c.clear(kernel, want)
	for _, name := range sorted(want.Sets, func(s *Set) bool { return !kernel.keeps(s) }) {
		c.op(Op{Verb: Add, Set: want.Sets[name]})
	}
	all := sorted(want.Chains, nil)
	for _, name := range all {
		if k, has := kernel.Chains[name]; !has || k.Base {
			c.op(Op{Verb: Add, Chain: want.Chains[name]})
		}
	}
	for _, name := range all {
		c.rules(want.Chains[name])
	}
	for _, name := range sorted(want.Sets, nil) {
		c.addElements(nil, want.Sets[name])
	}
	return c
}

// clear removes everything that the kernel has, except chains, which stay empty: unwanted ones
// are stale.
func (c *Change) clear(kernel *Observed, want *Listing) {
	names := slices.Sorted(maps.Keys(kernel.Chains))
	for _, name := range names {
		c.op(Op{Verb: Flush, Chain: &Chain{Name: name}})
	}
	for _, name := range names {
		switch {
		case kernel.Chains[name].Base: // its hook may be another
			c.op(Op{Verb: Delete, Chain: &Chain{Name: name}})
		case want.Chains[name] == nil:
			c.Stale = append(c.Stale, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(kernel.Sets)) {
		if w := want.Sets[name]; w == nil || !kernel.keeps(w) {
			c.op(Op{Verb: Delete, Set: &Set{Name: name, Map: kernel.Sets[name].Map}})
		}
	}
}

// keeps says whether the kernel has such a set and remembers clients in it.
func (o *Observed) keeps(s *Set) bool {
	k, ok := o.Sets[s.Name]
	return ok && s.Timeout > 0 && k.Timeout == s.Timeout
}

// Recreate leads from any table, or none, to want; what sets remember is lost.
func Recreate(want *Table) Change {
	c := Replace(&Observed{}, want)
	c.Ops = append([]Op{{Verb: Add}, {Verb: Delete}}, c.Ops...)
	return c
}

// DeleteChains are the operations that delete stale chains.
func DeleteChains(names []string) []Op {
	out := make([]Op, len(names))
	for i, name := range names {
		out[i] = Op{Verb: Delete, Chain: &Chain{Name: name}}
	}
	return out
}
