package elements

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/internal/golden"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// simulation is a table in a strict kernel of the tests: whatever the kernel would refuse is an
// error, and a transaction with an error in it changes nothing.
type simulation struct{ table *Listing }

func (s *simulation) apply(ops []Op) error {
	work := simulation{table: s.table.clone()}
	for _, op := range ops {
		if err := work.one(op); err != nil {
			return err
		}
	}
	if work.table != nil {
		if err := work.table.check(); err != nil {
			return err
		}
	}
	*s = work
	return nil
}

func (t *Listing) clone() *Listing {
	if t == nil {
		return nil
	}
	out := &Listing{Family: t.Family, Chains: map[string]*Chain{}, Sets: map[string]*Set{}}
	for name, c := range t.Chains {
		c2 := *c
		c2.Rules = slices.Clone(c.Rules)
		out.Chains[name] = &c2
	}
	for name, set := range t.Sets {
		s2 := *set
		s2.Elements = maps.Clone(set.Elements)
		out.Sets[name] = &s2
	}
	return out
}

func (s *simulation) one(op Op) error {
	switch {
	case op.Chain != nil:
		return s.chain(op.Verb, *op.Chain)
	case op.Rule != nil:
		c := s.table.Chains[op.Rule.Chain.Name]
		if c == nil {
			return fmt.Errorf("no chain %s for a rule", op.Rule.Chain.Name)
		}
		c.Rules = append(c.Rules, op.Rule.Text)
		return nil
	case op.Set != nil:
		return s.set(op.Verb, *op.Set)
	case op.Entry != nil:
		return s.element(op.Verb, op.Entry)
	case op.Verb == Delete:
		s.table = nil
	case s.table == nil:
		s.table = &Listing{Family: "ip", Chains: map[string]*Chain{}, Sets: map[string]*Set{}}
	}
	return nil
}

func (s *simulation) chain(verb Verb, c Chain) error {
	have := s.table.Chains[c.Name]
	switch {
	case verb == Add && have == nil:
		c.Rules = nil
		s.table.Chains[c.Name] = &c
	case verb == Add && (have.Base == nil) != (c.Base == nil):
		return fmt.Errorf("chain %s becomes another kind", c.Name)
	case have == nil:
		return fmt.Errorf("%s chain %s: there is none", verb, c.Name)
	case verb == Flush:
		have.Rules = nil
	case verb == Delete:
		if s.table.leadsTo(c.Name) {
			return fmt.Errorf("chain %s is in use", c.Name)
		}
		delete(s.table.Chains, c.Name)
	}
	return nil
}

func (s *simulation) set(verb Verb, set Set) error {
	have := s.table.Sets[set.Name]
	switch {
	case verb == Add && have == nil:
		set.Elements = map[string]Element{}
		s.table.Sets[set.Name] = &set
	case verb == Add && !have.alike(&set):
		return fmt.Errorf("set %s becomes another kind", set.Name)
	case verb == Delete && have == nil:
		return fmt.Errorf("no set %s to delete", set.Name)
	case verb == Delete && have.Map != set.Map:
		return fmt.Errorf("%s is not the kind that is deleted", set.Name)
	case verb == Delete:
		for _, c := range s.table.Chains {
			for _, rule := range c.Rules {
				if slices.Contains(strings.Fields(rule), "@"+set.Name) {
					return fmt.Errorf("set %s is in use by %q", set.Name, rule)
				}
			}
		}
		delete(s.table.Sets, set.Name)
	}
	return nil
}

func (s *simulation) element(verb Verb, e *Entry) error {
	set := s.table.Sets[e.Set.Name]
	if set == nil {
		return fmt.Errorf("no set %s for an element", e.Set.Name)
	}
	have, is := set.Elements[e.Key]
	switch {
	case verb == Add && is && have.Verdict != e.Verdict:
		return fmt.Errorf("element %s of %s is there already", e.Key, set.Name)
	case verb == Add:
		set.Elements[e.Key] = Element{Key: e.Key, Verdict: e.Verdict, Comment: e.Comment}
	case !is:
		return fmt.Errorf("no element %s in %s", e.Key, set.Name)
	default:
		delete(set.Elements, e.Key)
	}
	return nil
}

var reference = regexp.MustCompile(`(goto|jump) ([^ ,]+)|@([^ ,]+)`)

// check finds what leads to nothing.
func (t *Listing) check() error {
	for _, c := range t.Chains {
		for _, rule := range c.Rules {
			for _, m := range reference.FindAllStringSubmatch(rule, -1) {
				if m[2] != "" && t.Chains[m[2]] == nil || m[3] != "" && t.Sets[m[3]] == nil {
					return fmt.Errorf("rule %q of chain %s leads nowhere", rule, c.Name)
				}
			}
		}
	}
	for _, s := range t.Sets {
		for _, e := range s.Elements {
			if to, ok := strings.CutPrefix(e.Verdict, "goto "); ok && t.Chains[to] == nil {
				return fmt.Errorf("element %s of %s leads nowhere", e.Key, s.Name)
			}
		}
	}
	return nil
}

func (t *Listing) leadsTo(chain string) bool {
	for _, c := range t.Chains {
		for _, rule := range c.Rules {
			if strings.Contains(rule+" ", "goto "+chain+" ") || strings.Contains(rule+" ", "jump "+chain+" ") || strings.Contains(rule, "goto "+chain+",") {
				return true
			}
		}
	}
	for _, s := range t.Sets {
		for _, e := range s.Elements {
			if e.Verdict == "goto "+chain {
				return true
			}
		}
	}
	return false
}

// TestDiffsLeadToTheSameTable: however one comes to a snapshot, by differences,
// by taking over what is there or from nothing, the kernel holds the same.
func TestDiffsLeadToTheSameTable(t *testing.T) {
	o := testOptions(corev1.IPv4Protocol)
	primary := snapshot.Places{Ranges: []netip.Prefix{netip.MustParsePrefix("192.168.77.2/32")}}
	all := append(snapshots(t), &snapshot.Snapshot{Family: corev1.IPv4Protocol})
	for range 20 {
		sim := simulation{}
		var have *Table
		var stale []string
		for range 40 {
			s := *all[rand.IntN(len(all))]
			if rand.IntN(2) == 0 {
				s = *anyServices()
			}
			if rand.IntN(2) == 0 {
				s.NodePorts = primary
			}
			want := Render(&s, o)
			list := want.List()
			var change Change
			switch {
			case have == nil:
				change = Recreate(want)
			case rand.IntN(4) == 0:
				change = Replace(sim.names(), want)
			default:
				change = Diff(have, want)
			}
			if err := sim.apply(change.Ops); err != nil {
				t.Fatalf("applying a change: %v", err)
			}
			stale = append(stale, change.Stale...)
			stale = slices.DeleteFunc(stale, func(name string) bool { return list.Chains[name] != nil || sim.table.Chains[name] == nil })
			slices.Sort(stale)
			stale = slices.Compact(stale)
			if rand.IntN(2) == 0 {
				if err := sim.apply(DeleteChains(stale)); err != nil {
					t.Fatalf("deleting stale chains: %v", err)
				}
				stale = nil
			}
			seen := sim.table.clone()
			for _, name := range stale {
				if c := seen.Chains[name]; c == nil || len(c.Rules) > 0 {
					t.Fatalf("stale chain %s has rules or is gone", name)
				}
				delete(seen.Chains, name)
			}
			if got := seen.String(); got != want.String() {
				t.Fatalf("the kernel holds:\n%s", golden.LineDiff(want.String(), got))
			}
			if again := Diff(want, want); len(again.Ops) > 0 {
				t.Fatalf("twice is not once: %v", again.Ops)
			}
			have = want
		}
	}
}

// names is what the kernel tells of its chains and sets.
func (s *simulation) names() *Observed {
	out := &Observed{Chains: map[string]ObservedChain{}, Sets: map[string]ObservedSet{}}
	for name, c := range s.table.Chains {
		out.Chains[name] = ObservedChain{Base: c.Base != nil}
	}
	for name, set := range s.table.Sets {
		out.Sets[name] = ObservedSet{Map: set.Map, Timeout: set.Timeout}
	}
	return out
}

// manyServices has n Services of two endpoints each.
func manyServices(n int) *snapshot.Snapshot {
	out := &snapshot.Snapshot{Family: corev1.IPv4Protocol, NodePorts: snapshot.Places{All: true}}
	for i := range n {
		hi, lo := byte(i>>8), byte(i)
		p := &snapshot.Port{
			Name: fmt.Sprintf("ns/svc-%d:http", i), Protocol: corev1.ProtocolTCP, HasEndpoints: true,
			ClusterIP: netip.AddrFrom4([4]byte{10, 96, hi, lo}), Port: 80, NodePort: uint16(1 + i),
		}
		setEndpoints(p, netip.AddrFrom4([4]byte{10, 244, hi, lo}), netip.AddrFrom4([4]byte{10, 245, hi, lo}))
		out.Services = append(out.Services, &snapshot.Service{Namespace: "ns", Name: fmt.Sprintf("svc-%d", i), Ports: []*snapshot.Port{p}})
	}
	return out
}

func setEndpoints(p *snapshot.Port, addrs ...netip.Addr) {
	p.Endpoints = nil
	for _, a := range addrs {
		p.Endpoints = append(p.Endpoints, snapshot.Endpoint{AddrPort: netip.AddrPortFrom(a, 8080), Ready: true, Serving: true, Local: a.As4()[1] == 244})
	}
	p.Cluster, p.Reachable, p.HasEndpoints = p.Endpoints, p.Endpoints, len(addrs) > 0
}

// withPort is the snapshot with another port of its Service in the middle.
func withPort(s *snapshot.Snapshot, change func(*snapshot.Port)) *snapshot.Snapshot {
	out := *s
	out.Services = slices.Clone(s.Services)
	svc := *out.Services[len(out.Services)/2]
	p := *svc.Ports[0]
	change(&p)
	svc.Ports = []*snapshot.Port{&p}
	out.Services[len(out.Services)/2] = &svc
	return &out
}

// anyServices has some Services that share pods, addresses and node ports.
func anyServices() *snapshot.Snapshot {
	out := manyServices(8)
	out.Services = slices.DeleteFunc(out.Services, func(*snapshot.Service) bool { return rand.IntN(3) == 0 })
	for _, svc := range out.Services {
		p := svc.Ports[0]
		p.NodePort = uint16(30000 + rand.IntN(4))
		p.ExternalIPs = []netip.Addr{netip.AddrFrom4([4]byte{198, 51, 100, byte(rand.IntN(4))})}
		p.AffinitySeconds = int32(60 * rand.IntN(3))
		var pods []netip.Addr
		for i := range byte(4) {
			if rand.IntN(2) == 0 {
				pods = append(pods, netip.AddrFrom4([4]byte{10, 244, 0, i}))
			}
		}
		setEndpoints(p, pods...)
	}
	return out
}

// TestChangeCostsWhatItIs: the operations of a change do not depend on how many Services there
// are.
func TestChangeCostsWhatItIs(t *testing.T) {
	fresh := netip.MustParseAddr("10.244.200.200")
	changes := map[string]func(*snapshot.Snapshot) *snapshot.Snapshot{
		"endpoint moves": func(s *snapshot.Snapshot) *snapshot.Snapshot {
			return withPort(s, func(p *snapshot.Port) { setEndpoints(p, fresh, p.Endpoints[1].Addr()) })
		},
		"endpoints go": func(s *snapshot.Snapshot) *snapshot.Snapshot {
			return withPort(s, func(p *snapshot.Port) { setEndpoints(p) })
		},
		"service goes": func(s *snapshot.Snapshot) *snapshot.Snapshot {
			out := *s
			out.Services = slices.Delete(slices.Clone(s.Services), len(s.Services)/2, len(s.Services)/2+1)
			return &out
		},
		"service comes": func(s *snapshot.Snapshot) *snapshot.Snapshot {
			out := *s
			more := manyServices(len(s.Services) + 1)
			out.Services = append(slices.Clone(s.Services), more.Services[len(s.Services)])
			return &out
		},
	}
	want := map[string]int{"endpoint moves": 5, "endpoints go": 7, "service goes": 6, "service comes": 10}
	for _, n := range []int{10, 1_000, 10_000} {
		r := NewRenderer(testOptions(corev1.IPv4Protocol))
		before := manyServices(n)
		have := r.Render(before)
		for name, change := range changes {
			if got := len(Diff(have, r.Render(change(before))).Ops); got != want[name] {
				t.Errorf("of %d Services, %s: %d operations, want %d", n, name, got, want[name])
			}
		}
	}
}

// BenchmarkOneEndpoint is what one endpoint's change costs before nft runs.
func BenchmarkOneEndpoint(b *testing.B) {
	for _, n := range []int{1_000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r := NewRenderer(testOptions(corev1.IPv4Protocol))
			one := manyServices(n)
			two := withPort(one, func(p *snapshot.Port) { setEndpoints(p, netip.MustParseAddr("10.244.200.200")) })
			have := r.Render(one)
			for b.Loop() {
				want := r.Render(two)
				_ = Diff(have, want)
				have, one, two = want, two, one
			}
		})
	}
}
