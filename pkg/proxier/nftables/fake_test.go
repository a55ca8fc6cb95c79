package nftables

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/knftables"

	"github.com/nodeagent/nodeagent/pkg/proxier/nftables/elements"
	"github.com/nodeagent/nodeagent/pkg/proxier/proxiertest"
)

// fakeKernel is knftables' strict fake with what the backend reads from a kernel, and a walk of
// packets through its chains.
type fakeKernel struct {
	*knftables.Fake
	f          corev1.IPFamily
	generation uint64
	fail       func() error
	// last is the transaction that was run last, and how many operations it had.
	last int
}

func newFakeKernel(f corev1.IPFamily) *fakeKernel {
	return &fakeKernel{Fake: knftables.NewFake(family(f), elements.TableName), f: f, generation: 1, fail: func() error { return nil }}
}

func (k *fakeKernel) Run(ctx context.Context, tx *knftables.Transaction) error {
	if err := k.fail(); err != nil {
		return err
	}
	k.last = tx.NumOperations()
	if err := k.Fake.Run(ctx, tx); err != nil {
		return err
	}
	k.generation++
	return nil
}

func (k *fakeKernel) Generation() (uint64, error) { return k.generation, nil }

func (k *fakeKernel) Names(ctx context.Context) (*elements.Observed, error) {
	return k.All(ctx, func(string) bool { return false })
}

func (k *fakeKernel) All(_ context.Context, read func(string) bool) (*elements.Observed, error) {
	if err := k.fail(); err != nil {
		return nil, err
	}
	out := &elements.Observed{Chains: map[string]elements.ObservedChain{}, Sets: map[string]elements.ObservedSet{}}
	if k.Table == nil {
		return out, nil
	}
	for name, c := range k.Table.Chains {
		seen := elements.ObservedChain{Base: c.Hook != nil}
		for _, r := range c.Rules {
			seen.Rules = append(seen.Rules, uint64(*r.Handle))
		}
		out.Chains[name] = seen
	}
	raw := func(name string, list []*knftables.Element) (out []elements.RawElement) {
		for _, e := range list {
			if read(name) {
				out = append(out, elements.RawElement{Key: encode(e.Key), Verdict: strings.Join(e.Value, "")})
			}
		}
		return out
	}
	for name, s := range k.Table.Sets {
		seen := elements.ObservedSet{Elements: raw(name, s.Elements)}
		if s.Timeout != nil {
			seen.Timeout = *s.Timeout
		}
		out.Sets[name] = seen
	}
	for name, m := range k.Table.Maps {
		out.Sets[name] = elements.ObservedSet{Map: true, Elements: raw(name, m.Elements)}
	}
	return out, nil
}

func (k *fakeKernel) Rules(ctx context.Context, chain string) ([]uint64, error) {
	all, err := k.All(ctx, func(string) bool { return false })
	if err != nil {
		return nil, err
	}
	return all.Chains[chain].Rules, nil
}

func (k *fakeKernel) Has(_ context.Context, chain string) (bool, error) {
	return k.Table != nil && k.Table.Chains[chain] != nil, nil
}

// encode writes a key as the kernel does.
func encode(key []string) (out []byte) {
	for _, part := range key {
		var raw []byte
		if a, err := netip.ParsePrefix(part); err == nil {
			raw = a.Addr().AsSlice()
		} else if a, err := netip.ParseAddr(part); err == nil {
			raw = a.AsSlice()
		} else if n, err := strconv.ParseUint(part, 10, 16); err == nil {
			raw = binary.BigEndian.AppendUint16(nil, uint16(n))
		} else {
			raw = []byte{map[string]byte{"tcp": 6, "udp": 17, "sctp": 132}[part]}
		}
		for len(key) > 1 && len(raw)%4 != 0 {
			raw = append(raw, 0)
		}
		out = append(out, raw...)
	}
	return out
}

// packet is the first one of a connection on its way.
type packet struct {
	in         string
	proto      string
	src, dst   netip.AddrPort
	mark       uint64
	translated bool
	masked     bool // its source was rewritten
	local      []netip.Addr
}

// Connect is proxiertest.World.
func (k *fakeKernel) Connect(t testing.TB, from proxiertest.Place, protocol corev1.Protocol, to netip.AddrPort) proxiertest.Result {
	t.Helper()
	node := proxiertest.Address(proxiertest.Node, k.f)
	p := &packet{
		proto: strings.ToLower(string(protocol)), src: netip.AddrPortFrom(proxiertest.Address(from, k.f), 40000), dst: to,
		local: []netip.Addr{node},
	}
	hooks := []string{"filter-prerouting-pre-dnat", "nat-prerouting"}
	switch from {
	case proxiertest.Node:
		hooks = []string{"filter-output-pre-dnat", "nat-output"}
	case proxiertest.Pod1, proxiertest.Pod2:
		p.in = proxiertest.Bridge
	default:
		p.in = "eth0"
	}
	end := ""
	for _, hook := range hooks {
		if end == "" {
			end = k.walk(t, hook, p)
		}
	}
	next := "filter-forward"
	if from == proxiertest.Node {
		next = "filter-output"
	} else if p.dst.Addr() == node {
		next = "filter-input"
	}
	for _, hook := range []string{next, "nat-postrouting"} {
		if end == "" {
			end = k.walk(t, hook, p)
		}
	}
	switch end {
	case "reject":
		return proxiertest.Result{Verdict: proxiertest.Rejected}
	case "":
	default:
		return proxiertest.Result{Verdict: proxiertest.Dropped}
	}
	source := p.src.Addr()
	if p.masked {
		source = node
	}
	port := map[corev1.Protocol]uint16{corev1.ProtocolTCP: proxiertest.TCPPort, corev1.ProtocolUDP: proxiertest.UDPPort}[protocol]
	for _, place := range []proxiertest.Place{proxiertest.Pod1, proxiertest.Pod2, proxiertest.Remote} {
		if p.dst == netip.AddrPortFrom(proxiertest.Address(place, k.f), port) {
			return proxiertest.Result{Verdict: proxiertest.Landed, At: p.dst, Source: source}
		}
	}
	return proxiertest.Result{Verdict: proxiertest.Dropped} // nobody has that address
}

// walk goes through a chain, and says how the packet ended; "": it goes on to the next hook.
func (k *fakeKernel) walk(t testing.TB, chain string, p *packet) string {
	t.Helper()
	if k.Table == nil {
		return ""
	}
	end, _ := k.chain(t, chain, p)
	return end
}

// chain returns done if no further rule of the base chain is looked at.
func (k *fakeKernel) chain(t testing.TB, name string, p *packet) (end string, done bool) {
	t.Helper()
	c := k.Table.Chains[name]
	if c == nil {
		t.Fatalf("no chain %s", name)
	}
	for _, r := range c.Rules {
		verdict := k.rule(t, strings.Fields(r.Rule), p)
		word, target, _ := strings.Cut(verdict, " ")
		switch word {
		case "":
		case "jump", "goto":
			end, done := k.chain(t, target, p)
			if done || word == "goto" {
				return end, done
			}
		case "dnat", "masquerade":
			return "", true
		default:
			return word, true
		}
	}
	return "", false
}

// rule is the verdict of a rule; "": it does not match, or has none.
func (k *fakeKernel) rule(t testing.TB, w []string, p *packet) string {
	t.Helper()
	for len(w) > 0 {
		n, matches, verdict := k.expression(t, w, p)
		if verdict != "" || !matches {
			return verdict
		}
		w = w[n:]
	}
	return ""
}

// expression is the first one of a rule: how many words it has, whether the packet matches, and
// the verdict if it has one.
func (k *fakeKernel) expression(t testing.TB, w []string, p *packet) (n int, matches bool, verdict string) {
	t.Helper()
	text := strings.Join(w, " ")
	is := func(prefix string) bool { return strings.HasPrefix(text+" ", prefix+" ") }
	switch {
	case is("ct state new"):
		return 3, true, ""
	case is("ct state invalid"):
		return 3, false, ""
	case is("ct status dnat"):
		return 3, p.translated, ""
	case is("fib daddr type local"):
		return 4, slices.Contains(p.local, p.dst.Addr()), ""
	case is("fib saddr type local"):
		return 4, slices.Contains(p.local, p.src.Addr()), ""
	case is("meta mark and"):
		mask, _ := strconv.ParseUint(w[3], 0, 64)
		return 6, p.mark&mask != 0, ""
	case is("meta mark set meta mark or"), is("meta mark set meta mark xor"):
		bit, _ := strconv.ParseUint(w[6], 0, 64)
		if w[5] == "or" {
			p.mark |= bit
		} else {
			p.mark ^= bit
		}
		return 7, true, ""
	case is("numgen random mod"):
		return k.random(t, w, p)
	case is("dnat to"):
		p.dst, p.translated = netip.MustParseAddrPort(w[2]), true
		return 3, true, "dnat"
	case is("masquerade fully-random"):
		p.masked = true
		return 2, true, "masquerade"
	case is("reject"), is("drop"):
		return 1, true, w[0]
	case is("jump"), is("goto"):
		return 2, true, w[0] + " " + w[1]
	case is("update"):
		k.remember(w[1][1:], p)
		return 6, true, ""
	}
	return k.match(t, w, p)
}

func (k *fakeKernel) random(t testing.TB, w []string, p *packet) (n int, matches bool, verdict string) {
	t.Helper()
	of, err := strconv.Atoi(w[3])
	if err != nil || w[4] != "0" {
		t.Fatalf("numgen that the fake does not know: %v", w)
	}
	return 5, rand.IntN(of) == 0, ""
}

func (k *fakeKernel) remember(set string, p *packet) {
	e := &knftables.Element{Set: set, Key: []string{p.src.Addr().String()}}
	s := k.Table.Sets[set]
	if s.FindElement(e.Key...) == nil {
		s.Elements = append(s.Elements, e)
	}
}

// match compares one field, or several with dots between them, with a value, a set or a map.
func (k *fakeKernel) match(t testing.TB, w []string, p *packet) (n int, matches bool, verdict string) {
	t.Helper()
	var key []string
	for {
		key = append(key, field(t, w[n]+" "+w[n+1], p))
		n += 2
		if w[n] != "." {
			break
		}
		n++
	}
	if w[n] == "vmap" {
		e := k.Table.Maps[w[n+1][1:]].FindElement(key...)
		if e == nil {
			return n + 2, true, ""
		}
		return n + 2, true, strings.Join(e.Value, "")
	}
	not := w[n] == "!="
	if not {
		n++
	}
	values := []string{w[n]}
	if w[n] == "{" {
		end := slices.Index(w, "}")
		values, n = w[n+1:end], end
	}
	found := false
	for _, v := range values {
		found = found || k.one(strings.Trim(v, `,"`), key)
	}
	return n + 1, found != not, ""
}

func (k *fakeKernel) one(v string, key []string) bool {
	if set, is := strings.CutPrefix(v, "@"); is {
		return k.Table.Sets[set].FindElement(key...) != nil
	}
	if prefix, err := netip.ParsePrefix(v); err == nil {
		return prefix.Contains(netip.MustParseAddr(key[0]))
	}
	return v == key[0]
}

func field(t testing.TB, name string, p *packet) string {
	t.Helper()
	switch name {
	case "ip daddr", "ip6 daddr":
		return p.dst.Addr().String()
	case "ip saddr", "ip6 saddr":
		return p.src.Addr().String()
	case "meta l4proto":
		return p.proto
	case "th dport":
		return strconv.Itoa(int(p.dst.Port()))
	}
	t.Fatalf("a field that the fake does not know: %s", name)
	return ""
}
