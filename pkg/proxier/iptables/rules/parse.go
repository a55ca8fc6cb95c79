package rules

import (
	"bufio"
	"bytes"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Parse reads the text of iptables-save or of iptables-restore into a Ruleset,
// built-in chains included; counters and policies are left out. Parse of what
// Bytes wrote gives the same Ruleset, chains in the order of their names.
func Parse(text []byte) (*Ruleset, error) {
	return parse(text, func(string, string) bool { return true })
}

// Outline is Parse without the rules of our own chains, which may be very many.
func Outline(text []byte) (*Ruleset, error) {
	return parse(text, func(table, chain string) bool { return !owned(table, chain) })
}

// parse keeps the rules of those chains for which keep is true.
func parse(text []byte, keep func(table, chain string) bool) (*Ruleset, error) {
	p := parser{out: &Ruleset{}, keep: keep}
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(make([]byte, 0, 4096), 1<<20)
	for n := 1; lines.Scan(); n++ {
		if err := p.line(bytes.TrimSpace(lines.Bytes())); err != nil {
			return nil, fmt.Errorf("reading line %d of iptables rules: %w", n, err)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading iptables rules: %w", err)
	}
	if p.table != nil {
		return nil, fmt.Errorf("reading iptables rules: table %q has no COMMIT", p.table.Name)
	}
	return p.out, nil
}

type parser struct {
	out   *Ruleset
	keep  func(table, chain string) bool
	table *Table
	index map[string]int // chain name → place in table.Chains
	rules [][]byte       // of table.Chains
}

func (p *parser) line(text []byte) error {
	switch {
	case len(text) == 0 || text[0] == '#':
		return nil
	case text[0] == '*':
		return p.begin(string(text[1:]))
	case p.table == nil:
		return fmt.Errorf("%q is outside of a table", text)
	case string(text) == "COMMIT":
		p.end()
		return nil
	case text[0] == ':':
		return p.declare(string(text[1:]))
	}
	return p.command(text)
}

func (p *parser) begin(name string) error {
	if p.table != nil {
		return fmt.Errorf("table %q begins inside of table %q", name, p.table.Name)
	}
	if name == "" || strings.ContainsAny(name, " \t") || p.out.table(name).Chains != nil {
		return fmt.Errorf("table %q cannot begin here", name)
	}
	p.table, p.index, p.rules = &Table{Name: name}, map[string]int{}, nil
	return nil
}

func (p *parser) end() {
	for i := range p.table.Chains {
		p.table.Chains[i].Rules = string(p.rules[i])
	}
	p.table.Chains = slices.DeleteFunc(p.table.Chains, func(c Chain) bool { return slices.Contains(p.table.Remove, c.Name) })
	p.out.Tables = append(p.out.Tables, *p.table)
	p.table = nil
}

// declare reads ":NAME POLICY [packets:bytes]".
func (p *parser) declare(text string) error {
	fields := strings.Fields(text)
	if len(fields) < 2 {
		return fmt.Errorf("chain %q has no policy", text)
	}
	if _, double := p.index[fields[0]]; double {
		return fmt.Errorf("chain %q is declared twice", fields[0])
	}
	p.index[fields[0]] = len(p.table.Chains)
	p.rules = append(p.rules, nil)
	p.table.Chains = append(p.table.Chains, Chain{Name: fields[0]})
	return nil
}

func (p *parser) command(text []byte) error {
	if text[0] == '[' { // counters, with iptables-save -c
		_, rest, ok := bytes.Cut(text, []byte("] "))
		if !ok {
			return fmt.Errorf("counters of %q have no end", text)
		}
		text = rest
	}
	verb, rest, _ := bytes.Cut(text, []byte(" "))
	name, _, _ := bytes.Cut(rest, []byte(" "))
	i, known := p.index[string(name)]
	if !known {
		return fmt.Errorf("chain %q of %q is not declared", name, text)
	}
	switch string(verb) {
	case "-A":
		if p.keep(p.table.Name, p.table.Chains[i].Name) {
			p.rules[i] = append(append(p.rules[i], text...), '\n')
		}
	case "-X":
		p.table.Remove = append(p.table.Remove, string(name))
	default:
		return fmt.Errorf("%q is not a rule", text)
	}
	return nil
}

// words splits a rule as iptables-restore does: at spaces, but not inside
// double quotes, where a backslash takes the next character as it is.
func words(rule string) []string {
	var out []string
	var word strings.Builder
	quoted, open := false, false
	for i := 0; i < len(rule); i++ {
		switch c := rule[i]; {
		case c == '"':
			quoted, open = !quoted, true
		case quoted && c == '\\' && i+1 < len(rule):
			i++
			word.WriteByte(rule[i])
		case !quoted && (c == ' ' || c == '\t'):
			if open {
				out = append(out, word.String())
				word.Reset()
			}
			open = false
		default:
			word.WriteByte(c)
			open = true
		}
	}
	if open {
		out = append(out, word.String())
	}
	return out
}

// canonical brings a rule, as we write it or as iptables-save of any version
// prints it, to one form: options sorted, values written in one way, defaults and
// module names left out. Two rules of a chain are equivalent if their forms are
// equal.
func canonical(rule string) string {
	list := words(strings.TrimSpace(rule))
	if len(list) < 2 {
		return rule
	}
	var out []string
	not := ""
	for i := 2; i < len(list); i++ { // after -A NAME
		option := list[i]
		if option == "!" {
			not = "! "
			continue
		}
		var values []string
		for i+1 < len(list) && !strings.HasPrefix(list[i+1], "-") && list[i+1] != "!" {
			i++
			values = append(values, list[i])
		}
		if text := clause(option, values); text != "" {
			out = append(out, not+text)
		}
		not = ""
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// clause is one option in its canonical form; empty: it has no effect.
func clause(option string, values []string) string {
	value := strings.Join(values, " ")
	switch option {
	case "-m", "--rsource", "--comment":
		return "" // a comment has no effect
	case "--or-mark":
		return "--set-xmark " + hexadecimal(value) + "/" + hexadecimal(value)
	case "--xor-mark":
		return "--set-xmark " + hexadecimal(value) + "/0x0"
	case "--mask", "--reject-with":
		if isDefault(value) {
			return ""
		}
	case "-s", "-d":
		if value = prefix(value); value == "0.0.0.0/0" || value == "::/0" {
			return "" // every packet; iptables-save does not print it
		}
	case "-p":
		value = protocol(value)
	case "--ctstate":
		states := strings.Split(value, ",")
		slices.Sort(states)
		value = strings.Join(states, ",")
	case "--probability":
		value = chance(value)
	case "--mark", "--set-xmark":
		value = masked(value)
	}
	return strings.TrimSpace(option + " " + value)
}

// isDefault: iptables-save prints these even if nobody wrote them.
func isDefault(value string) bool {
	switch value {
	case "255.255.255.255", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "icmp-port-unreachable", "icmp6-port-unreachable":
		return true
	}
	return false
}

func prefix(text string) string {
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Masked().String()
	}
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(a, a.BitLen()).String()
	}
	return text
}

// protocol: iptables-save prints numbers where /etc/protocols is missing.
func protocol(text string) string {
	switch text {
	case "6":
		return "tcp"
	case "17":
		return "udp"
	case "132":
		return "sctp"
	}
	return text
}

// chance is the kernel's own unit, 1/2³¹ (linux/netfilter/xt_statistic.h);
// iptables-save prints 11 digits of it.
func chance(text string) string {
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || f < 0 || f > 1 {
		return text
	}
	return strconv.FormatInt(int64(math.Round(f*(1<<31))), 10)
}

func hexadecimal(text string) string {
	n, err := strconv.ParseUint(text, 0, 32)
	if err != nil {
		return text
	}
	return fmt.Sprintf("%#x", n)
}

func masked(text string) string {
	value, mask, ok := strings.Cut(text, "/")
	if !ok {
		return hexadecimal(value)
	}
	return hexadecimal(value) + "/" + hexadecimal(mask)
}
