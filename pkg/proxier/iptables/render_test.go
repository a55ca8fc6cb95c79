package iptables

import (
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/internal/fakekernel"
	"github.com/nodeagent/nodeagent/internal/golden"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot/snapshottest"
)

var testNode = snapshot.Node{
	Name: "me", Zone: "z1", Addresses: []netip.Addr{netip.MustParseAddr("192.168.77.2"), netip.MustParseAddr("fd77::2")},
	PodCIDRs: []netip.Prefix{netip.MustParsePrefix("fd00:244:1::/64"), netip.MustParsePrefix("10.244.1.0/24")},
}

func testOptions(f corev1.IPFamily) Options {
	o := Options{Family: f, MasqueradeBit: 14, RandomFully: true, Local: Local{CIDR: netip.MustParsePrefix("10.244.0.0/16")}}
	if f == corev1.IPv6Protocol {
		o.Local.CIDR = netip.MustParsePrefix("fd00:244::/32")
	}
	return o
}

// fakeTool is the fake kernel as a Tool.
type fakeTool struct{ *fakekernel.Kernel }

func (f fakeTool) Save(context.Context) ([]byte, error) {
	text, err := f.Kernel.Save()
	return []byte(text), err
}

func (f fakeTool) Restore(_ context.Context, text []byte) error {
	return f.Kernel.Restore(string(text))
}

func (f fakeTool) Delete(_ context.Context, j Jump) error {
	return f.Kernel.Delete(j.Table, j.From, j.Rule)
}

// goldenOptions reads lines like "masqueradeAll" from the file options.
func goldenOptions(f corev1.IPFamily, text string) Options {
	o := testOptions(f)
	for _, word := range strings.Fields(text) {
		switch word {
		case "masqueradeAll":
			o.MasqueradeAll = true
		case "bridge":
			o.Local = Local{Interface: "cni0"}
		case "prefix":
			o.Local = Local{Interface: "veth+"}
		case "noLocal":
			o.Local = Local{}
		case "nodeCIDR":
			o.Local = Local{NodeCIDR: true}
		case "localhostNodePorts":
			o.NodePorts.Localhost = true
		case "accounting":
			o.Accounting = true
		case "noFirewall":
			o.NoFirewall = true
		case "liberal":
			o.TCPBeLiberal = true
		case "old":
			o.RandomFully = false
		case "primary":
			o.NodePorts.Primary = true
		case "bit15":
			o.MasqueradeBit = 15
		default:
			o.NodePorts.Ranges = append(o.NodePorts.Ranges, netip.MustParsePrefix(word))
		}
	}
	return o
}

func TestRender(t *testing.T) {
	golden.Run(t, "testdata/*.txtar", func(t *testing.T, files map[string][]byte) map[string][]byte {
		objects, err := snapshottest.Parse(files["in.yaml"])
		if err != nil {
			t.Fatal(err)
		}
		out := map[string][]byte{}
		for _, f := range []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol} {
			s := snapshot.Build(objects.Services, objects.Slices, testNode, f)
			if len(s.Services) == 0 {
				continue
			}
			o := goldenOptions(f, string(files["options"]))
			rules := Render(s, o)
			if err := fakekernel.New(f).Restore(rules.String()); err != nil {
				t.Errorf("the kernel would refuse it: %v", err)
			}
			out["want."+strings.ToLower(string(f))] = []byte(rules.String())
		}
		return out
	})
}

// scenes are the snapshots of the golden files, for tests that need variety.
func scenes(t testing.TB) []*snapshot.Snapshot {
	t.Helper()
	var out []*snapshot.Snapshot
	golden.Each(t, "testdata/*.txtar", func(files map[string][]byte) {
		objects, err := snapshottest.Parse(files["in.yaml"])
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, snapshot.Build(objects.Services, objects.Slices, testNode, corev1.IPv4Protocol))
	})
	return out
}

// TestDiffsLeadToTheSameKernel: however one comes to a snapshot, by
// differences or from nothing, the kernel holds the same.
func TestDiffsLeadToTheSameKernel(t *testing.T) {
	o := testOptions(corev1.IPv4Protocol)
	list := append(scenes(t), &snapshot.Snapshot{Family: corev1.IPv4Protocol})
	k := fakekernel.New(corev1.IPv4Protocol)
	var have *Ruleset
	for range 100 {
		want := Render(list[rand.IntN(len(list))], o)
		change := Diff(have, want)
		if err := k.Restore(change.String()); err != nil {
			t.Fatalf("restoring a difference: %v\n%s", err, change)
		}
		kernel, err := Parse([]byte(k.String()))
		if err != nil {
			t.Fatal(err)
		}
		if drift := Drift(kernel, want, nil); drift != nil {
			t.Fatalf("after a difference: %v", drift)
		}
		if gone := stale(kernel, want); len(gone) > 0 {
			t.Fatalf("after a difference these are left: %v", gone)
		}
		if again := Diff(want, want); !again.Empty() {
			t.Fatalf("twice is not once: %s", again)
		}
		have = want
	}
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

// TestCanonicalKnowsWhatSavePrints: left is what we write, right what
// iptables-save of some version makes of it.
func TestCanonicalKnowsWhatSavePrints(t *testing.T) {
	for _, c := range [][2]string{
		{`-A X -p tcp -m tcp -d 10.96.0.1 --dport 80 -j Y`, `-A X -d 10.96.0.1/32 -p tcp -m tcp --dport 80 -j Y`},
		{`-A X -j MARK --or-mark 0x4000`, `-A X -j MARK --set-xmark 0x4000/0x4000`},
		{`-A X -j MARK --xor-mark 0x4000`, `-A X -j MARK --set-xmark 0x4000/0x0`},
		{`-A X -m statistic --mode random --probability 0.3333333333 -j Y`, `-A X -m statistic --mode random --probability 0.33333333349 -j Y`},
		{`-A X -m conntrack --ctstate INVALID,NEW -j DROP`, `-A X -m conntrack --ctstate NEW,INVALID -j DROP`},
		{`-A X -m recent --name Z --rcheck --seconds 10800 --reap -j Z`, `-A X -m recent --rcheck --seconds 10800 --reap --name Z --mask 255.255.255.255 --rsource -j Z`},
		{`-A X -j REJECT`, `-A X -j REJECT --reject-with icmp-port-unreachable`},
		{`-A X -m comment --comment "a b" -p udp -j Y`, `-A X -p 17 -m comment --comment "a b" -j Y`},
	} {
		if a, b := canonical(c[0]), canonical(c[1]); a != b {
			t.Errorf("%q is %q, but %q is %q", c[0], a, c[1], b)
		}
	}
	for _, c := range [][2]string{
		{`-A X -s 10.0.0.0/8 -j Y`, `-A X ! -s 10.0.0.0/8 -j Y`},
		{`-A X -j Y`, `-A X -j Z`},
		{`-A X -m statistic --mode random --probability 0.5 -j Y`, `-A X -m statistic --mode random --probability 0.33333 -j Y`},
		{`-A X -m addrtype --src-type LOCAL -j Y`, `-A X -m addrtype --dst-type LOCAL -j Y`},
	} {
		if a := canonical(c[0]); a == canonical(c[1]) {
			t.Errorf("%q and %q are both %q", c[0], c[1], a)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range scenes(f) {
		f.Add(Render(s, testOptions(corev1.IPv4Protocol)).String())
	}
	f.Add(foreign)
	f.Add("*nat\n:PREROUTING ACCEPT [1:2]\n[3:4] -A PREROUTING -j RETURN\nCOMMIT\n")
	f.Fuzz(func(t *testing.T, text string) {
		once, err := Parse([]byte(text))
		if err != nil {
			return
		}
		twice, err := Parse([]byte(once.String()))
		if err != nil {
			t.Fatalf("what was written cannot be read: %v\n%s", err, once)
		}
		if once, twice := byName(once), byName(twice); once != twice {
			t.Errorf("render, parse, render differ:\n%s", golden.LineDiff(once, twice))
		}
		for _, p := range udpPortals(once) {
			if p.Port == 0 || p.Protocol != corev1.ProtocolUDP {
				t.Errorf("%v is no portal of UDP", p)
			}
		}
		for _, part := range []func([]byte) (*Ruleset, error){outline, portalsToo} {
			if less, err := part([]byte(text)); err != nil || len(less.Tables) != len(once.Tables) {
				t.Errorf("read in part: %v, %v", less, err)
			}
		}
		for _, table := range once.Tables {
			for _, c := range table.Chains {
				for _, rule := range strings.Split(c.Rules, "\n") {
					_ = canonical(rule)
				}
			}
		}
	})
}

// byName is a ruleset's text with chains in the order of their names, as WriteTo declares them.
func byName(r *Ruleset) string {
	for _, t := range r.Tables {
		slices.SortStableFunc(t.Chains, func(a, b Chain) int { return strings.Compare(a.Name, b.Name) })
	}
	return r.String()
}

// TestRendererIsRenderWithMemory: whatever it remembers, it writes the same.
func TestRendererIsRenderWithMemory(t *testing.T) {
	o := testOptions(corev1.IPv4Protocol)
	o.Local, o.NodePorts.Primary = Local{NodeCIDR: true}, true
	r := NewRenderer(o)
	list := scenes(t)
	other := testNode
	other.PodCIDRs = []netip.Prefix{netip.MustParsePrefix("10.244.9.0/24")}
	renumbered := testNode
	renumbered.Addresses = []netip.Addr{netip.MustParseAddr("192.168.77.9")}
	for range 100 {
		s := *list[rand.IntN(len(list))]
		s.Node = []snapshot.Node{testNode, other, renumbered}[rand.IntN(3)]
		if got, want := r.Render(&s).String(), Render(&s, o).String(); got != want {
			t.Fatalf("with memory:\n%s", golden.LineDiff(want, got))
		}
	}
}
