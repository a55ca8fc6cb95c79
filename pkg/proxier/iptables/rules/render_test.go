package rules

import (
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

func testOptions(f corev1.IPFamily) Options {
	return Options{Family: f, MasqueradeBit: 14, RandomFully: true, Local: snapshottest.Pods(f)}
}

// goldenOptions reads words like "masqueradeAll" from the file options.
func goldenOptions(f corev1.IPFamily, text string) (o Options, nodePorts snapshot.NodePortAddresses) {
	o = testOptions(f)
	for _, word := range strings.Fields(text) {
		if local, ok := snapshottest.Local(word); ok {
			o.Local = local
			continue
		}
		switch word {
		case "masqueradeAll":
			o.MasqueradeAll = true
		case "localhostNodePorts":
			nodePorts.Localhost = true
		case "accounting":
			o.Accounting = true
		case "noFirewall":
			o.NoFirewall = true
		case "liberal":
			o.TCPBeLiberal = true
		case "old":
			o.RandomFully = false
		case "primary":
			nodePorts.Primary = true
		case "bit15":
			o.MasqueradeBit = 15
		default:
			nodePorts.Ranges = append(nodePorts.Ranges, netip.MustParsePrefix(word))
		}
	}
	o.Localhost = nodePorts.At(f, snapshot.Node{}).Loopback
	return o, nodePorts
}

func TestRender(t *testing.T) {
	golden.Run(t, "testdata/*.txtar", func(t *testing.T, files map[string][]byte) map[string][]byte {
		objects, err := snapshottest.Parse(files["in.yaml"])
		if err != nil {
			t.Fatal(err)
		}
		out := map[string][]byte{}
		for _, f := range []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol} {
			o, nodePorts := goldenOptions(f, string(files["options"]))
			s := snapshot.NewBuilder(f, nodePorts).Build(objects.Services, objects.Slices, snapshottest.Node())
			if len(s.Services) == 0 {
				continue
			}
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
		out = append(out, snapshot.Build(objects.Services, objects.Slices, snapshottest.Node(), corev1.IPv4Protocol))
	})
	return out
}

// TestDiffsLeadToTheSameKernel: however one comes to a snapshot, by
// differences or from nothing, the kernel holds the same.
func TestDiffsLeadToTheSameKernel(t *testing.T) {
	o := testOptions(corev1.IPv4Protocol)
	list := append(scenes(t), &snapshot.Snapshot{Family: corev1.IPv4Protocol})
	k := fakekernel.New(corev1.IPv4Protocol)
	var applied *Ruleset
	for range 100 {
		want := Render(list[rand.IntN(len(list))], o)
		change := Diff(applied, want)
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
		if gone := staleChains(kernel, want); len(gone) > 0 {
			t.Fatalf("after a difference these are left: %v", gone)
		}
		if again := Diff(want, want); !again.Empty() {
			t.Fatalf("twice is not once: %s", again)
		}
		applied = want
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
	f.Add("*nat\n:OTHER - [0:0]\n-A OTHER -s 10.0.0.0/8 -j MASQUERADE\nCOMMIT\n*filter\n:KUBE-ROUTER-INPUT - [0:0]\n-A KUBE-ROUTER-INPUT -j RETURN\nCOMMIT\n")
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
		for _, p := range UDPFrontends(once) {
			if p.Port == 0 || p.Protocol != corev1.ProtocolUDP {
				t.Errorf("%v is no frontend of UDP", p)
			}
		}
		for _, part := range []func([]byte) (*Ruleset, error){Outline, OutlineWithFrontends} {
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

// byName is a ruleset's text with chains in the order of their names, as Bytes declares them.
func byName(r *Ruleset) string {
	for _, t := range r.Tables {
		slices.SortStableFunc(t.Chains, func(a, b Chain) int { return strings.Compare(a.Name, b.Name) })
	}
	return r.String()
}

// TestRendererIsRenderWithMemory: whatever it remembers, it writes the same.
func TestRendererIsRenderWithMemory(t *testing.T) {
	o := testOptions(corev1.IPv4Protocol)
	o.Local = snapshot.LocalTraffic{NodeCIDR: true}
	r := NewRenderer(o)
	list := scenes(t)
	other := snapshottest.Node()
	other.PodCIDRs = []netip.Prefix{netip.MustParsePrefix("10.244.9.0/24")}
	renumbered := snapshottest.Node()
	renumbered.Addresses = []netip.Addr{netip.MustParseAddr("192.168.77.9")}
	for range 100 {
		s := *list[rand.IntN(len(list))]
		s.Node = []snapshot.Node{snapshottest.Node(), other, renumbered}[rand.IntN(3)]
		s.NodePorts = snapshot.NodePortAddresses{Primary: true}.At(s.Family, s.Node)
		if got, want := r.Render(&s).String(), Render(&s, o).String(); got != want {
			t.Fatalf("with memory:\n%s", golden.LineDiff(want, got))
		}
	}
}

// TestChainNamesAreThoseOfKubeProxy: names that its own tests and every
// cluster show for these inputs.
func TestChainNamesAreThoseOfKubeProxy(t *testing.T) {
	if got := prefixCluster + hashed("ns1/svc1:p80", "tcp"); got != "KUBE-SVC-XPGD46QRK7WJZT7O" {
		t.Error(got)
	}
	if got := prefixEndpoint + hashed("ns1/svc1:p80", "tcp", "10.180.0.1:80"); got != "KUBE-SEP-SXIVWICOYRO3J4NJ" {
		t.Error(got)
	}
	if got := prefixCluster + hashed("default/kubernetes:https", "tcp"); got != "KUBE-SVC-NPX46M4PTMTKRN6Y" {
		t.Error(got)
	}
}
