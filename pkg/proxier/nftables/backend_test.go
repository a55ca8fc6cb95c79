package nftables

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/knftables"

	"github.com/nodeagent/nodeagent/internal/golden"
	"github.com/nodeagent/nodeagent/pkg/proxier"
	"github.com/nodeagent/nodeagent/pkg/proxier/nftables/elements"
	"github.com/nodeagent/nodeagent/pkg/proxier/proxiertest"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// clock is a time that tests move.
type clock struct{ now time.Time }

func newBackend(t testing.TB, k *fakeKernel, c *clock) *Backend {
	t.Helper()
	o := elements.Options{Family: k.f, MasqueradeBit: 14, Local: snapshot.LocalTraffic{CIDR: proxiertest.PodRange(k.f)}}
	b, err := New(Config{Options: o, Tool: k, Kernel: k, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Now: func() time.Time { return c.now }})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestConformance runs the suite of all backends against a strict fake kernel, with one call in
// ten failing.
func TestConformance(t *testing.T) {
	for range 5 {
		proxiertest.Run(t, proxiertest.Harness{New: func(t *testing.T, f corev1.IPFamily) (proxier.Backend, proxiertest.World) {
			k := newFakeKernel(f)
			k.fail = func() error {
				if rand.IntN(10) == 0 {
					return errors.New("one in ten")
				}
				return nil
			}
			return newBackend(t, k, &clock{}), k
		}})
	}
}

// services has n Services of one port each, whose endpoints tell them apart.
func services(n int, endpoint byte) *snapshot.Snapshot {
	out := &snapshot.Snapshot{Family: corev1.IPv4Protocol}
	for i := range n {
		e := []snapshot.Endpoint{{AddrPort: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, byte(i), endpoint}), 8080), Ready: true, Serving: true}}
		name := "svc-" + string(rune('a'+i))
		p := &snapshot.Port{
			Name: "ns/" + name + ":p", Protocol: corev1.ProtocolUDP, ClusterIP: netip.AddrFrom4([4]byte{10, 96, 0, byte(1 + i)}), Port: 53,
			Endpoints: e, Cluster: e, Reachable: e, HasEndpoints: true,
		}
		out.Services = append(out.Services, &snapshot.Service{Namespace: "ns", Name: name, Ports: []*snapshot.Port{p}})
	}
	return out
}

// TestStaleChainsGoAfterAWhile: not in the transaction that takes the last element away, which
// older kernels refuse.
func TestStaleChainsGoAfterAWhile(t *testing.T) {
	k, c := newFakeKernel(corev1.IPv4Protocol), &clock{now: time.Unix(1, 0)}
	b := newBackend(t, k, c)
	proxiertest.Sync(t, b, services(2, 1))
	chains := len(k.Table.Chains)
	proxiertest.Sync(t, b, services(1, 1))
	if len(k.Table.Chains) != chains {
		t.Error("the chain of a Service that is gone is deleted at once")
	}
	at := b.WakeAt()
	if want := c.now.Add(staleAge); !at.Equal(want) {
		t.Errorf("asks to be woken at %v, want %v", at, want)
	}
	c.now = at
	proxiertest.Sync(t, b, services(1, 1))
	if len(k.Table.Chains) != chains-1 {
		t.Error("the chain of a Service that is gone stays")
	}
	if !b.WakeAt().IsZero() {
		t.Error("still asks to be woken")
	}
	if drift, err := b.Check(t.Context()); err != nil || drift != nil {
		t.Errorf("drift %v, %v", drift, err)
	}
}

// TestStaleChainThatStays: a chain that the kernel keeps, since a rule of another program leads to
// it, is tried once a minute; one that another program has deleted is forgotten.
func TestStaleChainThatStays(t *testing.T) {
	k, c := newFakeKernel(corev1.IPv4Protocol), &clock{now: time.Unix(1, 0)}
	b := newBackend(t, k, c)
	for _, n := range []int{2, 1} {
		proxiertest.Sync(t, b, services(n, 1))
	}
	busy := true
	k.fail = func() error {
		if busy {
			busy = false
			return errors.New("device or resource busy")
		}
		return nil
	}
	c.now = b.WakeAt()
	proxiertest.Sync(t, b, services(1, 1))
	if want := c.now.Add(staleRetry); !b.WakeAt().Equal(want) {
		t.Errorf("asks to be woken at %v, want %v", b.WakeAt(), want)
	}
	before := len(k.Table.Chains)
	c.now = b.WakeAt()
	busy = true
	for name := range b.stale {
		delete(k.Table.Chains, name)
	}
	proxiertest.Sync(t, b, services(1, 1))
	if !b.WakeAt().IsZero() || len(k.Table.Chains) != before-1 {
		t.Errorf("asks to be woken at %v for chains that nobody has", b.WakeAt())
	}
}

// TestNftThatHangs is killed, and the error says so.
func TestNftThatHangs(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	if err := hung(ctx, errors.New("signal: killed")); !strings.Contains(err.Error(), "hangs") {
		t.Errorf("the error is %q", err)
	}
}

// TestStaleChainIsUsedAgain: a Service that comes back before its chain went has it again.
func TestStaleChainIsUsedAgain(t *testing.T) {
	k, c := newFakeKernel(corev1.IPv4Protocol), &clock{now: time.Unix(1, 0)}
	b := newBackend(t, k, c)
	for _, n := range []int{2, 1, 2} {
		proxiertest.Sync(t, b, services(n, 1))
	}
	c.now = c.now.Add(time.Hour)
	proxiertest.Sync(t, b, services(2, 1))
	if at := b.WakeAt(); !at.IsZero() {
		t.Errorf("a chain in use is taken for stale")
	}
	fresh := newFakeKernel(corev1.IPv4Protocol)
	proxiertest.Sync(t, newBackend(t, fresh, c), services(2, 1))
	if got, want := k.Dump(), fresh.Dump(); got != want {
		t.Errorf("the kernel holds:\n%s", golden.LineDiff(want, got))
	}
}

// TestSameSnapshotTwiceIsOnce and a failure makes the next sync whole.
func TestSameSnapshotTwiceIsOnce(t *testing.T) {
	k := newFakeKernel(corev1.IPv4Protocol)
	b := newBackend(t, k, &clock{})
	proxiertest.Sync(t, b, services(2, 1))
	whole, writes := k.last, k.generation
	proxiertest.Sync(t, b, services(2, 1)) // other pointers, the same content
	if k.generation != writes {
		t.Error("the same snapshot twice was written twice")
	}
	proxiertest.Sync(t, b, services(2, 9))
	if k.last >= whole {
		t.Errorf("%d operations for two endpoints, %d for everything", k.last, whole)
	}
	k.fail = func() error { return errors.New("no") }
	if err := b.Sync(t.Context(), services(2, 1)); err == nil {
		t.Error("a failure is not told")
	}
	k.fail = func() error { return nil }
	proxiertest.Sync(t, b, services(2, 1))
	if k.last < whole {
		t.Error("after a failure not everything was written")
	}
}

func TestFoundUDP(t *testing.T) {
	k := newFakeKernel(corev1.IPv4Protocol)
	proxiertest.Sync(t, newBackend(t, k, &clock{}), services(2, 1))
	b := newBackend(t, k, &clock{})
	if b.FoundUDP() != nil {
		t.Error("found before the first sync")
	}
	proxiertest.Sync(t, b, services(0, 1))
	if found := b.FoundUDP(); len(found) != 2 || found[0].Addr.String() != "10.96.0.1" {
		t.Errorf("found %v", found)
	}
}

func TestLine(t *testing.T) {
	for said, want := range map[string]int{
		"/dev/stdin:12:1-20: Error: syntax error": 12,
		"/dev/stdin:3:4: Error: x":                3,
		"nothing\n/dev/stdin:7:1-2: Error: Could not process rule: File exists\nadd element": 7,
		"Error: no line": 0,
		"":               0,
	} {
		if got, ok := line(said); got != want || ok != (want > 0) {
			t.Errorf("%q: line %d, %v", said, got, ok)
		}
	}
}

func FuzzParseElements(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x1c\x00\x01\x80\x0c\x00\x01\x80\x08\x00\x01\x00\x0a\x60\x00\x01\x0c\x00\x02\x80\x08\x00\x02\x80"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, e := range parseElements(raw) {
			if strings.HasPrefix(e.Verdict, "verdict 0") {
				t.Error("a verdict without its name")
			}
		}
		_ = parseVerdict(raw)
	})
}

// TestNftInputIsOneLineAnOperation, or what nft says of a line would lead to another port.
func TestNftInputIsOneLineAnOperation(t *testing.T) {
	ops := elements.Recreate(elements.Render(sample(corev1.IPv4Protocol), elements.Options{Family: corev1.IPv4Protocol, MasqueradeBit: 14})).Ops
	tx := knftables.NewFake(knftables.IPv4Family, elements.TableName).NewTransaction()
	for _, op := range ops {
		apply(tx, op)
	}
	if lines := strings.Count(tx.String(), "\n"); lines != len(ops) || tx.NumOperations() != len(ops) {
		t.Errorf("%d operations are %d lines:\n%s", len(ops), lines, tx)
	}
}
