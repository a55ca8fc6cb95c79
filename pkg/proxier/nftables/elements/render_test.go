package elements

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/internal/golden"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot/snapshottest"
)

func testOptions(f corev1.IPFamily) Options {
	return Options{Family: f, MasqueradeBit: 14, Local: snapshottest.Pods(f)}
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
		case "liberal":
			o.TCPBeLiberal = true
		case "primary":
			nodePorts.Primary = true
		case "bit15":
			o.MasqueradeBit = 15
		default:
			nodePorts.Ranges = append(nodePorts.Ranges, netip.MustParsePrefix(word))
		}
	}
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
			table := Render(s, o)
			sim := simulation{}
			if err := sim.apply(Recreate(table).Ops); err != nil {
				t.Errorf("the kernel would refuse it: %v", err)
			}
			out["want."+strings.ToLower(string(f))] = []byte(table.String())
		}
		return out
	})
}

// snapshots are the snapshots of the golden files, for tests that need variety.
func snapshots(t testing.TB) []*snapshot.Snapshot {
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

// TestRendererIsRenderWithMemory: whatever it remembers, it makes the same table.
func TestRendererIsRenderWithMemory(t *testing.T) {
	o := testOptions(corev1.IPv4Protocol)
	o.Local = snapshot.LocalTraffic{NodeCIDR: true}
	r := NewRenderer(o)
	list := snapshots(t)
	other, renumbered := *list[0], *list[0]
	other.Node.PodCIDRs = []netip.Prefix{netip.MustParsePrefix("10.244.9.0/24")}
	renumbered.NodePorts = snapshot.Places{Ranges: []netip.Prefix{netip.MustParsePrefix("192.168.77.9/32")}}
	for range 100 {
		s := *list[rand.IntN(len(list))]
		of := []*snapshot.Snapshot{list[0], &other, &renumbered}[rand.IntN(3)]
		s.Node, s.NodePorts = of.Node, of.NodePorts
		if got, want := r.Render(&s).String(), Render(&s, o).String(); got != want {
			t.Fatalf("with memory:\n%s", golden.LineDiff(want, got))
		}
	}
}

// TestLeftOutPortIsMissing, and comes back when it is tried again.
func TestLeftOutPortIsMissing(t *testing.T) {
	r := NewRenderer(testOptions(corev1.IPv4Protocol))
	s := snapshots(t)[0]
	port := s.Services[0].Ports[0]
	name := prefixCluster + base(port)
	whole := r.Render(s)
	r.LeaveOut(port, "refused")
	if table := r.Render(s).List(); table.Chains[name] != nil || whole.List().Chains[name] == nil {
		t.Errorf("chain %s: in the table although left out", name)
	}
	r.RenderAll()
	if r.Render(s).String() != whole.String() {
		t.Error("what is tried again is not rendered")
	}
}

// TestNamesAreThoseOfKubeProxy: names that its own tests and every cluster show for these inputs.
func TestNamesAreThoseOfKubeProxy(t *testing.T) {
	p := &snapshot.Port{Name: "ns1/svc1:p80", Protocol: corev1.ProtocolTCP}
	if got := prefixCluster + base(p); got != "service-ULMVA6XW-ns1/svc1/tcp/p80" {
		t.Error(got)
	}
	e := snapshot.Endpoint{AddrPort: netip.MustParseAddrPort("10.180.0.1:80")}
	if got := prefixEndpoint + endpointBase(p, e); got != "endpoint-5OJB2KTY-ns1/svc1/tcp/p80__10.180.0.1/80" {
		t.Error(got)
	}
}
