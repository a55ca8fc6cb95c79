package rules

import (
	"bytes"
	"slices"
	"strings"
)

// Ruleset is the whole state of our chains, or a change of it: a value that can be
// printed, compared and applied.
type Ruleset struct {
	// Tables are in the order nat, filter, mangle; a change has only those that it
	// changes, and may have filter before nat, or twice: see Diff.
	Tables []Table
}

// Table holds the chains to write in one table.
type Table struct {
	Name string
	// Chains are written whole: they replace what the kernel has.
	Chains []Chain
	// Remove are chains to delete; nothing in Chains jumps to them.
	Remove []string
}

// Chain is a name and its rules, each a line "-A name …" that ends in a newline.
type Chain struct {
	Name  string
	Rules string
	// Insert, in a change, has rules "-I name …" to put before the existing
	// ones; Rules is empty then.
	Insert string
}

// Empty says that applying the ruleset would do nothing.
func (r *Ruleset) Empty() bool { return r == nil || len(r.Tables) == 0 }

// Bytes is the input of `iptables-restore --noflush`: a chain that is declared is emptied first, a
// chain that is not is left alone.
func (r *Ruleset) Bytes() []byte {
	var b bytes.Buffer
	b.Grow(r.size())
	for _, t := range r.Tables {
		t.write(&b)
	}
	return b.Bytes()
}

// write declares chains by name: iptables-nft keeps them in a sorted list, and
// with 15,000 chains in another order it takes 21 s instead of 4.
func (t Table) write(b *bytes.Buffer) {
	b.WriteString("*" + t.Name + "\n")
	names := slices.Clone(t.Remove)
	for _, c := range t.Chains {
		if c.Insert == "" {
			names = append(names, c.Name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		b.WriteString(":" + name + " - [0:0]\n")
	}
	for _, c := range t.Chains {
		b.WriteString(c.Rules)
		b.WriteString(c.Insert)
	}
	for _, name := range t.Remove {
		b.WriteString("-X " + name + "\n")
	}
	b.WriteString("COMMIT\n")
}

func (r *Ruleset) size() int {
	n := 0
	for _, t := range r.Tables {
		n += 32 + 100*len(t.Remove)
		for _, c := range t.Chains {
			n += len(c.Rules) + len(c.Insert) + len(c.Name) + 16
		}
	}
	return n
}

// String is Bytes as a string.
func (r *Ruleset) String() string { return string(r.Bytes()) }

// Rules counts the rules of a table.
func (r *Ruleset) Rules(table string) int {
	n := 0
	for _, t := range r.Tables {
		if t.Name == table {
			for _, c := range t.Chains {
				n += strings.Count(c.Rules, "\n") + strings.Count(c.Insert, "\n")
			}
		}
	}
	return n
}

// Removed counts the chains that a change removes from a table.
func (r *Ruleset) Removed(table string) int {
	n := 0
	for _, t := range r.Tables {
		if t.Name == table {
			n += len(t.Remove)
		}
	}
	return n
}
