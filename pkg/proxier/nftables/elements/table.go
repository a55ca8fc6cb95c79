package elements

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// Table is the whole table of one family, in parts that tables of other
// snapshots share. It is not changed after it was made.
type Table struct {
	fixed *fixedPart
	// fragments are what ports add, in the order of the snapshot. Where two have one element, it
	// is that of the first.
	fragments []*fragment
}

// fixedPart is what a table has without any Service.
type fixedPart struct {
	family string // ip or ip6
	chains []*Chain
	sets   []*Set
}

// Listing is a table, or a part of one, by name.
type Listing struct {
	// Family is that of nftables: ip or ip6.
	Family string
	Chains map[string]*Chain
	// Sets are sets and maps.
	Sets map[string]*Set
}

// List is the whole table by name.
func (t *Table) List() *Listing {
	out := t.fixed.list(len(t.fragments))
	for _, c := range t.fixed.chains {
		out.Chains[c.Name] = c
	}
	for _, f := range t.fragments {
		f.addTo(out)
	}
	return out
}

// list has the sets alone; n is how many elements each may get.
func (p *fixedPart) list(n int) *Listing {
	out := &Listing{Family: p.family, Chains: make(map[string]*Chain, n), Sets: make(map[string]*Set, len(p.sets))}
	for _, s := range p.sets {
		set := *s
		set.Elements = make(map[string]Element, n)
		maps.Copy(set.Elements, s.Elements)
		out.Sets[s.Name] = &set
	}
	return out
}

// addTo puts a fragment into a listing. Where two Services have the same address and port, the
// first one has it, as the first rule of a chain would.
func (f *fragment) addTo(l *Listing) {
	f.addChainsTo(l)
	for _, e := range f.elements {
		e.addTo(l)
	}
}

func (f *fragment) addChainsTo(l *Listing) {
	for _, c := range f.chains {
		l.Chains[c.Name] = c
	}
	for _, s := range f.sets {
		l.Sets[s.Name] = s
	}
}

func (e placed) addTo(l *Listing) {
	in := l.Sets[e.set].Elements
	if _, taken := in[e.Key]; !taken {
		in[e.Key] = e.Element
	}
}

// Chains is how many chains a table has.
func (t *Table) Chains() int {
	n := len(t.fixed.chains)
	for _, f := range t.fragments {
		n += len(f.chains)
	}
	return n
}

// Chain is one chain with its rules.
type Chain struct {
	Name string
	// Base says where the kernel enters the chain; nil: only rules and maps lead to it.
	Base  *Base
	Rules []string
	// Port is the one the chain belongs to; nil: it is everybody's.
	Port *snapshot.Port
}

// Base is the hook of a base chain.
type Base struct {
	// Type is filter or nat.
	Type, Hook string
	Priority   int
}

// Set is one set, or a map from keys to verdicts.
type Set struct {
	Name string
	// Type is that of the keys.
	Type string
	// Map says that elements have a verdict.
	Map bool
	// Interval allows ranges as keys.
	Interval bool
	// Timeout makes the kernel's rules fill the set and elements expire after it; 0: elements are
	// those of Elements, and stay.
	Timeout time.Duration
	// Comment is for people.
	Comment  string
	Elements map[string]Element
	Port     *snapshot.Port
}

// Element is one element of a set or map.
type Element struct {
	// Key is written as nftables does: "10.96.0.1 . tcp . 443".
	Key string
	// Verdict is what a map says of it: "drop", "goto CHAIN".
	Verdict string
	// Comment is for people.
	Comment string
	Port    *snapshot.Port
}

func (e Element) same(o Element) bool { return e.Verdict == o.Verdict && e.Comment == o.Comment }

func (c *Chain) same(o *Chain) bool {
	if c == o {
		return true
	}
	if (c.Base == nil) != (o.Base == nil) || c.Base != nil && *c.Base != *o.Base {
		return false
	}
	return slices.Equal(c.Rules, o.Rules)
}

// alike says whether two sets differ in their elements at most.
func (s *Set) alike(o *Set) bool {
	return s.Type == o.Type && s.Map == o.Map && s.Interval == o.Interval && s.Timeout == o.Timeout
}

// Rules is how many rules a table has.
func (t *Table) Rules() int {
	n := 0
	count := func(chains []*Chain) {
		for _, c := range chains {
			n += len(c.Rules)
		}
	}
	count(t.fixed.chains)
	for _, f := range t.fragments {
		count(f.chains)
	}
	return n
}

// String is the table as input of nft -f, sorted by name.
func (t *Table) String() string { return t.List().String() }

// String is what is listed as input of nft -f, sorted by name.
func (l *Listing) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table %s %s {\n", l.Family, TableName)
	for _, name := range slices.Sorted(maps.Keys(l.Sets)) {
		l.Sets[name].writeTo(&b)
	}
	for _, name := range slices.Sorted(maps.Keys(l.Chains)) {
		l.Chains[name].writeTo(&b)
	}
	b.WriteString("}\n")
	return b.String()
}

func (c *Chain) writeTo(b *strings.Builder) {
	fmt.Fprintf(b, "\tchain %s {\n", c.Name)
	if c.Base != nil {
		fmt.Fprintf(b, "\t\ttype %s hook %s priority %d; policy accept;\n", c.Base.Type, c.Base.Hook, c.Base.Priority)
	}
	for _, rule := range c.Rules {
		b.WriteString("\t\t" + rule + "\n")
	}
	b.WriteString("\t}\n")
}

func (s *Set) writeTo(b *strings.Builder) {
	kind, verdict := "set", ""
	if s.Map {
		kind, verdict = "map", " : verdict"
	}
	fmt.Fprintf(b, "\t%s %s {\n\t\ttype %s%s\n", kind, s.Name, s.Type, verdict)
	if s.Interval {
		b.WriteString("\t\tflags interval\n")
	}
	if s.Timeout > 0 {
		fmt.Fprintf(b, "\t\tflags dynamic,timeout\n\t\ttimeout %ds\n", int(s.Timeout.Seconds()))
	}
	if len(s.Elements) > 0 {
		b.WriteString("\t\telements = {\n")
		for _, key := range slices.Sorted(maps.Keys(s.Elements)) {
			b.WriteString("\t\t\t" + s.Elements[key].String() + ",\n")
		}
		b.WriteString("\t\t}\n")
	}
	b.WriteString("\t}\n")
}

// String is the element as `nft list` prints it.
func (e Element) String() string {
	out := e.Key
	if e.Comment != "" {
		out += ` comment "` + e.Comment + `"`
	}
	if e.Verdict != "" {
		out += " : " + e.Verdict
	}
	return out
}
