// Package fakekernel is a strict iptables in memory. It takes the text of iptables-restore like the
// programs and the kernel, refuses what they refuse, prints its state like iptables-save, and sends
// packets through its rules. It refuses everything that it does not know, so that no test passes by
// accident.
//
// A Kernel has tables, a table has chains, a chain has rules, and a rule has matches and one
// target. Restore changes each table completely or not at all. Trace sends a Packet through the
// hooks in netfilter's order; where a rule depends on chance, it follows every path.
package fakekernel

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
)

// Kernel is the iptables of one network namespace and one family. Use New: the zero value does not
// work.
type Kernel struct {
	family corev1.IPFamily
	local  []netip.Addr

	mu     sync.Mutex
	tables map[string]*table
	recent map[string]map[netip.Addr]bool // of -m recent, by list
	fault  func() error
	writes int
}

type table struct {
	order  []string // of chains, built-in ones first
	chains map[string]*chain
}

type chain struct {
	builtin bool
	rules   []*rule
}

// hooks are the built-in chains of each table.
func hooks(name string) []string {
	switch name {
	case "filter":
		return []string{"INPUT", "FORWARD", "OUTPUT"}
	case "nat":
		return []string{"PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"}
	case "mangle":
		return []string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}
	}
	return nil
}

// New returns an empty kernel whose own addresses are local.
func New(family corev1.IPFamily, local ...netip.Addr) *Kernel {
	k := &Kernel{family: family, local: local, tables: map[string]*table{}, recent: map[string]map[netip.Addr]bool{}}
	for _, name := range []string{"filter", "nat", "mangle"} {
		t := &table{chains: map[string]*chain{}}
		for _, hook := range hooks(name) {
			t.add(hook, &chain{builtin: true})
		}
		k.tables[name] = t
	}
	return k
}

// Faults calls f before each change and each Save. If f returns an error, that call fails with it
// and changes nothing.
func (k *Kernel) Faults(f func() error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fault = f
}

// Writes returns how many Restores succeeded.
func (k *Kernel) Writes() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.writes
}

func (t *table) add(name string, c *chain) {
	t.order = append(t.order, name)
	t.chains[name] = c
}

func (t *table) clone() *table {
	out := &table{order: slices.Clone(t.order), chains: make(map[string]*chain, len(t.chains))}
	for name, c := range t.chains {
		out.chains[name] = &chain{builtin: c.builtin, rules: slices.Clone(c.rules)}
	}
	return out
}

func (k *Kernel) failing() error {
	if k.fault == nil {
		return nil
	}
	return k.fault()
}

// Restore is iptables-restore --noflush.
func (k *Kernel) Restore(text string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.failing(); err != nil {
		return err
	}
	var name string
	var t *table
	for n, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '*':
			name = line[1:]
			if t != nil || k.tables[name] == nil {
				return fmt.Errorf("line %d failed: table %q cannot begin here", n+1, name)
			}
			t = k.tables[name].clone()
		case t == nil:
			return fmt.Errorf("line %d failed: %q is outside of a table", n+1, line)
		case line == "COMMIT":
			if err := t.complete(name); err != nil {
				return fmt.Errorf("line %d failed: %w", n+1, err)
			}
			k.tables[name], t = t, nil
		default:
			if err := k.apply(name, t, line); err != nil {
				return fmt.Errorf("line %d failed: %w", n+1, err)
			}
		}
	}
	if t != nil {
		return errors.New("the input ends without COMMIT")
	}
	k.writes++
	return nil
}

func (k *Kernel) apply(tableName string, t *table, line string) error {
	if line[0] == ':' {
		return t.declare(line[1:])
	}
	args, err := split(line)
	if err != nil {
		return err
	}
	if len(args) < 2 {
		return fmt.Errorf("%q is not a command", line)
	}
	c := t.chains[args[1]]
	if c == nil {
		return fmt.Errorf("no chain %q", args[1])
	}
	switch args[0] {
	case "-A", "-I":
		r, err := k.parseRule(tableName, args[1], args[2:])
		if err != nil {
			return fmt.Errorf("rule %q: %w", line, err)
		}
		if args[0] == "-I" {
			c.rules = slices.Insert(c.rules, 0, r)
		} else {
			c.rules = append(c.rules, r)
		}
		return nil
	case "-X":
		return t.remove(args[1])
	}
	return fmt.Errorf("unknown command %q", args[0])
}

// declare creates a chain, or empties an existing one.
func (t *table) declare(text string) error {
	fields := strings.Fields(text)
	if len(fields) != 3 {
		return fmt.Errorf("chain line %q has not three fields", text)
	}
	name := fields[0]
	if len(name) > 28 {
		return fmt.Errorf("chain name %q is longer than 28", name)
	}
	c := t.chains[name]
	switch {
	case c == nil:
		t.add(name, &chain{})
	case c.builtin:
		return fmt.Errorf("built-in chain %q would be emptied", name)
	default:
		c.rules = nil
	}
	return nil
}

func (t *table) remove(name string) error {
	c := t.chains[name]
	if c.builtin || len(c.rules) > 0 {
		return fmt.Errorf("chain %q is built in or not empty", name)
	}
	for from, other := range t.chains {
		if slices.ContainsFunc(other.rules, func(r *rule) bool { return r.target == name }) {
			return fmt.Errorf("chain %q is in use by %q", name, from)
		}
	}
	delete(t.chains, name)
	t.order = slices.DeleteFunc(t.order, func(n string) bool { return n == name })
	return nil
}

// complete checks what is only known at COMMIT: jumps have targets and form no circle.
func (t *table) complete(name string) error {
	for from, c := range t.chains {
		for _, r := range c.rules {
			if r.target != "" && !isTarget(r.target) && t.chains[r.target] == nil {
				return fmt.Errorf("chain %q of table %q jumps to %q, which does not exist", from, name, r.target)
			}
		}
	}
	for from := range t.chains {
		if t.loops(from, map[string]bool{}) {
			return fmt.Errorf("chain %q of table %q leads to itself", from, name)
		}
	}
	return nil
}

func (t *table) loops(name string, path map[string]bool) bool {
	if path[name] {
		return true
	}
	path[name] = true
	defer delete(path, name)
	for _, r := range t.chains[name].rules {
		if t.chains[r.target] != nil && t.loops(r.target, path) {
			return true
		}
	}
	return false
}

// Insert is iptables -I chain 1; it does nothing if the rule exists.
func (k *Kernel) Insert(tableName, chainName string, args []string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.failing(); err != nil {
		return err
	}
	r, c, err := k.find(tableName, chainName, args)
	if err != nil || slices.ContainsFunc(c.rules, r.same) {
		return err
	}
	if !isTarget(r.target) && k.tables[tableName].chains[r.target] == nil {
		return fmt.Errorf("no chain %q to jump to", r.target)
	}
	c.rules = slices.Insert(c.rules, 0, r)
	return nil
}

// Delete is iptables -D; it does nothing if the rule does not exist.
func (k *Kernel) Delete(tableName, chainName string, args []string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.failing(); err != nil {
		return err
	}
	r, c, err := k.find(tableName, chainName, args)
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(c.rules, r.same); i >= 0 {
		c.rules = slices.Delete(c.rules, i, i+1)
	}
	return nil
}

func (k *Kernel) find(tableName, chainName string, args []string) (*rule, *chain, error) {
	t := k.tables[tableName]
	if t == nil || t.chains[chainName] == nil {
		return nil, nil, fmt.Errorf("no chain %q in table %q", chainName, tableName)
	}
	r, err := k.parseRule(tableName, chainName, args)
	return r, t.chains[chainName], err
}

// Flush empties a chain, as another program might.
func (k *Kernel) Flush(tableName, chainName string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if c := k.tables[tableName].chains[chainName]; c != nil {
		c.rules = nil
	}
}

// Save prints the state like iptables-save, or returns an injected fault.
func (k *Kernel) Save() (string, error) {
	k.mu.Lock()
	err := k.failing()
	k.mu.Unlock()
	return k.String(), err
}

// String prints the state like iptables-save.
func (k *Kernel) String() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var b strings.Builder
	for _, name := range []string{"mangle", "nat", "filter"} {
		t := k.tables[name]
		fmt.Fprintf(&b, "*%s\n", name)
		for _, chainName := range t.order {
			policy := "-"
			if t.chains[chainName].builtin {
				policy = "ACCEPT"
			}
			fmt.Fprintf(&b, ":%s %s [0:0]\n", chainName, policy)
		}
		for _, chainName := range t.order {
			for _, r := range t.chains[chainName].rules {
				fmt.Fprintf(&b, "-A %s %s\n", chainName, r.text())
			}
		}
		b.WriteString("COMMIT\n")
	}
	return b.String()
}

// Chain returns the rules of a chain as text; nil if there is no such chain.
func (k *Kernel) Chain(tableName, chainName string) []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := k.tables[tableName].chains[chainName]
	if c == nil {
		return nil
	}
	out := []string{}
	for _, r := range c.rules {
		out = append(out, r.text())
	}
	return out
}
