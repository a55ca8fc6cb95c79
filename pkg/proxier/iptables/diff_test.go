package iptables

import (
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/internal/fakekernel"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// counting keeps the last text.
type counting struct {
	fakeTool
	last *string
}

func (c counting) Restore(ctx context.Context, text []byte) error {
	*c.last = string(text)
	return c.fakeTool.Restore(ctx, text)
}

// TestNewServicesAreInserted: of many Services few are new; the chain that all share is not written
// again, and is not drift.
func TestNewServicesAreInserted(t *testing.T) {
	k := fakekernel.New(corev1.IPv4Protocol)
	var last string
	b, err := New(Config{Options: testOptions(corev1.IPv4Protocol), Tool: counting{fakeTool{k}, &last}, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	all := manyServices(300)
	sync := func(services []*snapshot.Service, most int) {
		t.Helper()
		if err := b.Sync(t.Context(), &snapshot.Snapshot{Family: corev1.IPv4Protocol, Services: services}); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(last, "\n-"); n > most {
			t.Errorf("%d rules were written, want at most %d", n, most)
		}
		if drift, err := b.Check(t.Context()); err != nil || drift != nil {
			t.Fatalf("our own rules are drift: %v, %v", drift, err)
		}
		rules := k.Chain("nat", chainServices)
		if end := rules[len(rules)-1]; len(rules) != len(services)+1 || !strings.Contains(end, "-j "+chainNodePorts) {
			t.Errorf("%d rules for %d Services, at the end %q", len(rules), len(services), end)
		}
	}
	sync(all.Services[:200], 2000)
	sync(all.Services[:203], 20)  // at the end
	sync(all.Services[:300], 500) // and more
	some := append([]*snapshot.Service{}, all.Services[:100]...)
	sync(append(some, all.Services[110:]...), 2000) // some go: written whole
	sync(all.Services, 60)                          // in the middle
	// What another program puts behind the last rule is seen.
	if err := k.Restore("*nat\n-A KUBE-SERVICES -j ACCEPT\nCOMMIT\n"); err != nil {
		t.Fatal(err)
	}
	if drift, err := b.Check(t.Context()); err != nil || len(drift) == 0 {
		t.Errorf("a foreign rule is no drift: %v", err)
	}
}

// TestNoPacketIsLostBetweenTables: tables are taken one after the other. Whatever comes and goes at
// once, a packet to a Service is led to an endpoint or refused after each of them, never let
// through untranslated.
func TestNoPacketIsLostBetweenTables(t *testing.T) {
	const n = 8
	rules := func() *Ruleset {
		s := manyServices(n)
		for _, svc := range s.Services {
			if p := svc.Ports[0]; rand.IntN(2) == 0 {
				p.Endpoints, p.Cluster, p.Local, p.Reachable, p.HasEndpoints = nil, nil, nil, nil, false
			}
		}
		return Render(s, testOptions(corev1.IPv4Protocol))
	}
	k := fakekernel.New(corev1.IPv4Protocol)
	have := rules()
	if err := k.Restore(have.String()); err != nil {
		t.Fatal(err)
	}
	for _, j := range Jumps(testOptions(corev1.IPv4Protocol)) {
		if err := k.Insert(j.Table, j.From, j.Rule); err != nil {
			t.Fatal(err)
		}
	}
	steps := map[int]int{}
	for range 200 {
		want := rules()
		change := Diff(have, want)
		steps[len(change.Tables)]++
		for _, table := range change.Tables {
			if err := k.Restore((&Ruleset{Tables: []Table{table}}).String()); err != nil {
				t.Fatal(err)
			}
			for _, svc := range manyServices(n).Services {
				to := netip.AddrPortFrom(svc.Ports[0].ClusterIP, svc.Ports[0].Port)
				out := k.Connect(fakekernel.Packet{Proto: "tcp", Src: netip.MustParseAddrPort("10.244.1.9:40000"), Dst: to})
				if out.Verdict != fakekernel.Rejected && out.Dst == to {
					t.Fatalf("a packet to %s is let through between the tables of\n%s", to, change)
				}
			}
		}
		have = want
	}
	if steps[3] == 0 || steps[2] == 0 {
		t.Errorf("changes of so many tables, how often: %v: not what is to be tested", steps)
	}
}

// TestNewEndpointIsWrittenFirst: what lets packets through does not wait for the rule that refused
// them to go.
func TestNewEndpointIsWrittenFirst(t *testing.T) {
	none, some := manyServices(2), manyServices(2)
	p := none.Services[1].Ports[0]
	p.Endpoints, p.Cluster, p.Local, p.Reachable, p.HasEndpoints = nil, nil, nil, nil, false
	o := testOptions(corev1.IPv4Protocol)
	for _, c := range []struct {
		have, want *snapshot.Snapshot
		order      string
	}{{none, some, "nat filter"}, {some, none, "filter nat"}} {
		var got []string
		for _, table := range Diff(Render(c.have, o), Render(c.want, o)).Tables {
			got = append(got, table.Name)
		}
		if strings.Join(got, " ") != c.order {
			t.Errorf("tables in the order %v, want %s", got, c.order)
		}
	}
}
