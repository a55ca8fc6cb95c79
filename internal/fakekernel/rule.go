package fakekernel

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// rule is one parsed rule. Its target applies if all tests match.
type rule struct {
	args   []string
	tests  []test
	target string // empty: the rule only counts
	// of targets:
	mark   func(uint32) uint32
	dnat   netip.AddrPort
	chance float64 // of -m statistic; 0: certain
	set    string  // list of -m recent --set
}

// test reports whether a packet matches.
type test func(k *Kernel, s *state) bool

func isTarget(name string) bool {
	return slices.Contains([]string{"ACCEPT", "DROP", "RETURN", "REJECT", "MARK", "DNAT", "MASQUERADE"}, name)
}

func (r *rule) same(o *rule) bool { return slices.Equal(r.args, o.args) }

// text returns the rule as iptables-save quotes it.
func (r *rule) text() string {
	out := make([]string, len(r.args))
	for i, a := range r.args {
		if strings.ContainsAny(a, " ;") {
			a = `"` + a + `"`
		}
		out[i] = a
	}
	return strings.Join(out, " ")
}

// split splits a line at spaces outside of double quotes.
func split(line string) ([]string, error) {
	var out []string
	for rest := line; rest != ""; {
		rest = strings.TrimLeft(rest, " ")
		if rest == "" {
			break
		}
		var word string
		if rest[0] == '"' {
			end := strings.IndexByte(rest[1:], '"')
			if end < 0 {
				return nil, fmt.Errorf("%q has an open quote", line)
			}
			word, rest = rest[1:1+end], rest[2+end:]
		} else {
			word, rest, _ = strings.Cut(rest, " ")
		}
		out = append(out, word)
	}
	return out, nil
}

// ruleParser reads a rule's arguments from left to right, like iptables: an option must come after
// the -m that provides it.
type ruleParser struct {
	k            *Kernel
	table, chain string
	args         []string
	modules      map[string]bool
	proto        string
	not          bool
	r            *rule
	recentList   string
	checksRecent bool
}

func (k *Kernel) parseRule(table, chain string, args []string) (*rule, error) {
	p := ruleParser{k: k, table: table, chain: chain, args: slices.Clone(args), modules: map[string]bool{}, r: &rule{args: args}}
	for len(p.args) > 0 {
		option := p.args[0]
		p.args = p.args[1:]
		if option == "!" {
			if p.not {
				return nil, errors.New("double negation")
			}
			p.not = true
			continue
		}
		if err := p.option(option); err != nil {
			return nil, fmt.Errorf("option %q: %w", option, err)
		}
		p.not = false
	}
	return p.r, p.check()
}

// check checks what the targets require.
func (p *ruleParser) check() error {
	r := p.r
	switch {
	case r.target == "DNAT" && (p.table != "nat" || !r.dnat.IsValid()):
		return errors.New("DNAT is for table nat and needs --to-destination")
	case r.target == "DNAT" && p.proto == "":
		return errors.New("DNAT to a port needs -p")
	case r.target == "MASQUERADE" && p.table != "nat":
		return errors.New("MASQUERADE is for table nat")
	case r.target == "REJECT" && p.table != "filter":
		return errors.New("REJECT is for table filter")
	case r.target == "DROP" && p.table == "nat":
		return errors.New("table nat is not for filtering")
	case r.target == "MARK" && r.mark == nil:
		return errors.New("MARK needs a value")
	}
	return nil
}

func (p *ruleParser) value() (string, error) {
	if len(p.args) == 0 {
		return "", errors.New("no value")
	}
	v := p.args[0]
	p.args = p.args[1:]
	return v, nil
}

func (p *ruleParser) add(t test) {
	if p.not {
		inner := t
		t = func(k *Kernel, s *state) bool { return !inner(k, s) }
	}
	p.r.tests = append(p.r.tests, t)
}

// needs requires that a module was named, and says whether "!" is allowed.
func (p *ruleParser) needs(module string, mayNegate bool) error {
	if module != "" && !p.modules[module] {
		return fmt.Errorf("unknown without -m %s", module)
	}
	if p.not && !mayNegate {
		return errors.New("cannot be negated")
	}
	return nil
}

type optionSpec struct {
	module    string
	mayNegate bool
	parse     func(p *ruleParser, value string) error
	noValue   bool
}

func options() map[string]optionSpec {
	return map[string]optionSpec{
		"-m":               {parse: (*ruleParser).module},
		"-s":               {mayNegate: true, parse: func(p *ruleParser, v string) error { return p.address(v, source) }},
		"-d":               {mayNegate: true, parse: func(p *ruleParser, v string) error { return p.address(v, destination) }},
		"-i":               {mayNegate: true, parse: (*ruleParser).inInterface},
		"-p":               {parse: (*ruleParser).protocol},
		"--dport":          {module: "port", parse: (*ruleParser).dport},
		"--comment":        {module: "comment", parse: (*ruleParser).comment},
		"--ctstate":        {module: "conntrack", mayNegate: true, parse: (*ruleParser).ctstate},
		"--mark":           {module: "mark", mayNegate: true, parse: (*ruleParser).markMatch},
		"--src-type":       {module: "addrtype", mayNegate: true, parse: func(p *ruleParser, v string) error { return p.addrtype(v, source) }},
		"--dst-type":       {module: "addrtype", mayNegate: true, parse: func(p *ruleParser, v string) error { return p.addrtype(v, destination) }},
		"--mode":           {module: "statistic", parse: (*ruleParser).mode},
		"--probability":    {module: "statistic", parse: (*ruleParser).probability},
		"--name":           {module: "recent", parse: (*ruleParser).recentName},
		"--rcheck":         {module: "recent", noValue: true, parse: (*ruleParser).rcheck},
		"--seconds":        {module: "recent", parse: (*ruleParser).seconds},
		"--reap":           {module: "recent", noValue: true, parse: (*ruleParser).nothing},
		"--set":            {module: "recent", noValue: true, parse: (*ruleParser).recentSet},
		"--nfacct-name":    {module: "nfacct", parse: (*ruleParser).counter},
		"-j":               {parse: (*ruleParser).jump},
		"--to-destination": {module: "DNAT", parse: (*ruleParser).toDestination},
		"--reject-with":    {module: "REJECT", parse: (*ruleParser).rejectWith},
		"--or-mark":        {module: "MARK", parse: (*ruleParser).orMark},
		"--xor-mark":       {module: "MARK", parse: (*ruleParser).xorMark},
		"--random-fully":   {module: "MASQUERADE", noValue: true, parse: (*ruleParser).nothing},
	}
}

func (p *ruleParser) option(name string) error {
	spec, ok := options()[name]
	if !ok {
		return errors.New("unknown")
	}
	if err := p.needs(spec.module, spec.mayNegate); err != nil {
		return err
	}
	if spec.noValue {
		return spec.parse(p, "")
	}
	v, err := p.value()
	if err != nil {
		return err
	}
	return spec.parse(p, v)
}

func (p *ruleParser) nothing(string) error { return nil }

func (p *ruleParser) module(v string) error {
	switch v {
	case "tcp", "udp", "sctp":
		if p.proto != "" && p.proto != v {
			return fmt.Errorf("module %q with protocol %q", v, p.proto)
		}
		p.modules["port"] = true
	case "comment", "conntrack", "mark", "addrtype", "statistic", "recent", "nfacct":
	default:
		return fmt.Errorf("unknown module %q", v)
	}
	p.modules[v] = true
	return nil
}

func source(s *state) netip.AddrPort      { return s.src }
func destination(s *state) netip.AddrPort { return s.dst }

func (p *ruleParser) address(v string, of func(*state) netip.AddrPort) error {
	prefix, err := netip.ParsePrefix(v)
	if err != nil {
		a, err := netip.ParseAddr(v)
		if err != nil {
			return err
		}
		prefix = netip.PrefixFrom(a, a.BitLen())
	}
	if prefix.Addr().Is6() != (p.k.family == corev1.IPv6Protocol) {
		return fmt.Errorf("address %s is not %s", v, p.k.family)
	}
	p.add(func(_ *Kernel, s *state) bool { return prefix.Contains(of(s).Addr()) })
	return nil
}

func (p *ruleParser) inInterface(v string) error {
	name, isPrefix := strings.CutSuffix(v, "+")
	p.add(func(_ *Kernel, s *state) bool {
		return s.in == v || isPrefix && s.in != "" && strings.HasPrefix(s.in, name)
	})
	return nil
}

func (p *ruleParser) protocol(v string) error {
	if v != "tcp" && v != "udp" && v != "sctp" {
		return fmt.Errorf("unknown protocol %q", v)
	}
	p.proto = v
	p.add(func(_ *Kernel, s *state) bool { return s.proto == v })
	return nil
}

func (p *ruleParser) dport(v string) error {
	n, err := strconv.ParseUint(v, 10, 16)
	if err != nil || n == 0 || p.proto == "" {
		return fmt.Errorf("port %q of protocol %q", v, p.proto)
	}
	p.add(func(_ *Kernel, s *state) bool { return s.dst.Port() == uint16(n) })
	return nil
}

func (p *ruleParser) comment(v string) error {
	if len(v) > 255 {
		return errors.New("longer than 255")
	}
	return nil
}

func (p *ruleParser) ctstate(v string) error {
	states := strings.Split(v, ",")
	for _, state := range states {
		if !slices.Contains([]string{"NEW", "ESTABLISHED", "RELATED", "INVALID", "DNAT"}, state) {
			return fmt.Errorf("unknown state %q", state)
		}
	}
	p.add(func(_ *Kernel, s *state) bool {
		return slices.Contains(states, "NEW") || slices.Contains(states, "DNAT") && s.translated
	})
	return nil
}

func parseMark(v string) (value, mask uint32, err error) {
	left, right, ok := strings.Cut(v, "/")
	if !ok {
		right = "0xffffffff"
	}
	a, err1 := strconv.ParseUint(left, 0, 32)
	b, err2 := strconv.ParseUint(right, 0, 32)
	return uint32(a), uint32(b), errors.Join(err1, err2)
}

func (p *ruleParser) markMatch(v string) error {
	value, mask, err := parseMark(v)
	p.add(func(_ *Kernel, s *state) bool { return s.mark&mask == value })
	return err
}

func (p *ruleParser) addrtype(v string, of func(*state) netip.AddrPort) error {
	if v != "LOCAL" {
		return fmt.Errorf("unknown type %q", v)
	}
	p.add(func(k *Kernel, s *state) bool { return k.isLocal(of(s).Addr()) })
	return nil
}

func (p *ruleParser) mode(v string) error {
	if v != "random" {
		return fmt.Errorf("unknown mode %q", v)
	}
	return nil
}

func (p *ruleParser) probability(v string) error {
	f, err := strconv.ParseFloat(v, 64)
	if err != nil || f <= 0 || f > 1 || math.IsNaN(f) {
		return fmt.Errorf("probability %q", v)
	}
	p.r.chance = f
	return nil
}

func (p *ruleParser) recentName(v string) error {
	p.recentList = v
	return nil
}

func (p *ruleParser) rcheck(string) error {
	list := p.recentList
	if list == "" {
		return errors.New("no --name")
	}
	p.checksRecent = true
	p.add(func(k *Kernel, s *state) bool { return k.recent[list][s.src.Addr()] })
	return nil
}

func (p *ruleParser) seconds(v string) error {
	n, err := strconv.ParseUint(v, 10, 32)
	if err == nil && (n == 0 || !p.checksRecent) {
		return errors.New("zero, or without --rcheck")
	}
	return err
}

func (p *ruleParser) recentSet(string) error {
	if p.recentList == "" {
		return errors.New("no --name")
	}
	p.r.set = p.recentList
	return nil
}

func (p *ruleParser) counter(v string) error {
	if v == "" || len(v) > 31 {
		return fmt.Errorf("name of a counter %q", v)
	}
	return nil
}

func (p *ruleParser) jump(v string) error {
	if p.r.target != "" {
		return errors.New("two targets")
	}
	p.r.target = v
	p.modules[v] = true
	return nil
}

func (p *ruleParser) rejectWith(v string) error {
	if v != "tcp-reset" || p.proto != "tcp" {
		return fmt.Errorf("rejecting protocol %q with %q", p.proto, v)
	}
	return nil
}

func (p *ruleParser) toDestination(v string) error {
	to, err := netip.ParseAddrPort(v)
	if err != nil || to.Port() == 0 || to.Addr().Is6() != (p.k.family == corev1.IPv6Protocol) {
		return fmt.Errorf("destination %q", v)
	}
	p.r.dnat = to
	return nil
}

func (p *ruleParser) orMark(v string) error {
	value, _, err := parseMark(v)
	p.r.mark = func(m uint32) uint32 { return m | value }
	return err
}

func (p *ruleParser) xorMark(v string) error {
	value, _, err := parseMark(v)
	p.r.mark = func(m uint32) uint32 { return m ^ value }
	return err
}
