package rules

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/internal/fakekernel"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot/snapshottest"
)

// TestNoPacketIsLostBetweenTables: tables are taken one after the other. Whatever comes and goes
// at once, a packet to a Service is led to an endpoint or refused after each of them, never let
// through untranslated.
func TestNoPacketIsLostBetweenTables(t *testing.T) {
	const n = 8
	rules := func() *Ruleset {
		s := snapshottest.Many(n)
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
			for _, svc := range snapshottest.Many(n).Services {
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
	none, some := snapshottest.Many(2), snapshottest.Many(2)
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
