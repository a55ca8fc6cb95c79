package iptables

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/internal/fakekernel"
	"github.com/nodeagent/nodeagent/internal/golden"
	"github.com/nodeagent/nodeagent/pkg/proxier/iptables/rules"
	"github.com/nodeagent/nodeagent/pkg/proxier/proxiertest"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot/snapshottest"
)

// fakeTool is the fake kernel as a Tool.
type fakeTool struct{ *fakekernel.Kernel }

func (f fakeTool) Save(context.Context) ([]byte, error) {
	text, err := f.Kernel.Save()
	return []byte(text), err
}

func (f fakeTool) Restore(_ context.Context, text []byte) error {
	return f.Kernel.Restore(string(text))
}

func (f fakeTool) Delete(_ context.Context, j rules.Jump) error {
	return f.Kernel.Delete(j.Table, j.From, j.Rule)
}

func TestSyncWritesOnlyWhatChanged(t *testing.T) {
	k := fakekernel.New(corev1.IPv4Protocol)
	b := newBackend(t, k)
	list := scenes(t)
	for _, s := range list {
		if err := b.Sync(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		writes := k.Writes()
		if err := b.Sync(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if k.Writes() != writes {
			t.Error("the same snapshot twice was written twice")
		}
	}
}

func newBackend(t testing.TB, k *fakekernel.Kernel) *Backend {
	t.Helper()
	b, err := New(Config{Options: testOptions(corev1.IPv4Protocol), Tool: fakeTool{k}, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const foreign = "*nat\n:OTHER - [0:0]\n-A OTHER -s 10.0.0.0/8 -j MASQUERADE\nCOMMIT\n*filter\n:KUBE-ROUTER-INPUT - [0:0]\n-A KUBE-ROUTER-INPUT -j RETURN\nCOMMIT\n"

// TestCleanupLeavesOthersAlone: what was there before is there after, exactly.
func TestCleanupLeavesOthersAlone(t *testing.T) {
	k := fakekernel.New(corev1.IPv4Protocol)
	if err := k.Restore(foreign); err != nil {
		t.Fatal(err)
	}
	if err := k.Insert("nat", "POSTROUTING", []string{"-j", "OTHER"}); err != nil {
		t.Fatal(err)
	}
	before := k.String()
	b := newBackend(t, k)
	for _, s := range scenes(t) {
		if err := b.Sync(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := b.Cleanup(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if after := k.String(); after != before {
		t.Errorf("after cleanup:\n%s", golden.LineDiff(before, after))
	}
}

// TestTakeover: chains that a kube-proxy left are used or removed in one go.
func TestTakeover(t *testing.T) {
	k := fakekernel.New(corev1.IPv4Protocol)
	left := "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-SVC-OLDOLDOLDOLDOLDO - [0:0]\n:KUBE-SEP-OLDOLDOLDOLDOLDO - [0:0]\n" +
		"-A KUBE-SERVICES -j KUBE-SVC-OLDOLDOLDOLDOLDO\n-A KUBE-SVC-OLDOLDOLDOLDOLDO -j KUBE-SEP-OLDOLDOLDOLDOLDO\nCOMMIT\n"
	if err := k.Restore(left); err != nil {
		t.Fatal(err)
	}
	b := newBackend(t, k)
	if err := b.Sync(t.Context(), scenes(t)[0]); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(k.String(), "OLDOLD") {
		t.Errorf("chains of the past are left:\n%s", k)
	}
}

func TestCheckFindsWhatOthersDid(t *testing.T) {
	k := fakekernel.New(corev1.IPv4Protocol)
	b := newBackend(t, k)
	s := scenes(t)[0]
	for _, c := range []struct{ table, chain string }{{"nat", "KUBE-SERVICES"}, {"nat", "PREROUTING"}, {"filter", "KUBE-FORWARD"}, {"nat", "KUBE-MARK-MASQ"}} {
		if err := b.Sync(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if drift, err := b.Check(t.Context()); err != nil || drift != nil {
			t.Fatalf("drift of an untouched kernel: %v, %v", drift, err)
		}
		before := k.String()
		k.Flush(c.table, c.chain)
		drift, err := b.Check(t.Context())
		if err != nil || len(drift) != 1 || !strings.Contains(drift[0], c.chain) {
			t.Errorf("after flushing %s: %v, %v", c.chain, drift, err)
		}
		if err := b.Sync(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if after := k.String(); after != before {
			t.Errorf("after repair of %s:\n%s", c.chain, golden.LineDiff(before, after))
		}
	}
}

// counting keeps the last text.
type counting struct {
	fakeTool
	last *string
}

func (c counting) Restore(ctx context.Context, text []byte) error {
	*c.last = string(text)
	return c.fakeTool.Restore(ctx, text)
}

// TestNewServicesAreInserted: of many Services few are new; the chain that all share is not
// written again, and is not drift.
func TestNewServicesAreInserted(t *testing.T) {
	k := fakekernel.New(corev1.IPv4Protocol)
	var last string
	b, err := New(Config{Options: testOptions(corev1.IPv4Protocol), Tool: counting{fakeTool{k}, &last}, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	all := snapshottest.Many(300)
	sync := func(services []*snapshot.Service, most int) {
		t.Helper()
		if err := b.Sync(t.Context(), &snapshot.Snapshot{Family: corev1.IPv4Protocol, NodePorts: snapshot.Places{All: true}, Services: services}); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(last, "\n-"); n > most {
			t.Errorf("%d rules were written, want at most %d", n, most)
		}
		if drift, err := b.Check(t.Context()); err != nil || drift != nil {
			t.Fatalf("our own rules are drift: %v, %v", drift, err)
		}
		chain := k.Chain("nat", rules.ChainServices)
		if end := chain[len(chain)-1]; len(chain) != len(services)+1 || !strings.Contains(end, "-j "+"KUBE-NODEPORTS") {
			t.Errorf("%d rules for %d Services, at the end %q", len(chain), len(services), end)
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

func testOptions(f corev1.IPFamily) rules.Options {
	return rules.Options{Family: f, MasqueradeBit: 14, RandomFully: true, Local: snapshot.LocalTraffic{CIDR: proxiertest.PodRange(f)}}
}

// scenes are the snapshots of the golden files of package rules.
func scenes(t testing.TB) []*snapshot.Snapshot {
	t.Helper()
	var out []*snapshot.Snapshot
	golden.Each(t, "rules/testdata/*.txtar", func(files map[string][]byte) {
		objects, err := snapshottest.Parse(files["in.yaml"])
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, snapshot.Build(objects.Services, objects.Slices, snapshottest.Node(), corev1.IPv4Protocol))
	})
	return out
}
