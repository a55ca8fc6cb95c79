package netns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	vnetns "github.com/vishvananda/netns"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/knftables"

	"github.com/nodeagent/nodeagent/internal/golden"
	"github.com/nodeagent/nodeagent/pkg/proxier"
	"github.com/nodeagent/nodeagent/pkg/proxier/nftables"
	"github.com/nodeagent/nodeagent/pkg/proxier/nftables/elements"
	"github.com/nodeagent/nodeagent/pkg/proxier/proxiertest"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot/snapshottest"
)

// nftIn runs nft and reads the kernel in a namespace; fail, if not nil, is asked first.
type nftIn struct {
	ns     vnetns.NsHandle
	nft    knftables.Interface
	reader *nftables.Reader
	fail   func() error
}

func (n nftIn) do(f func() error) error {
	if n.fail != nil {
		if err := n.fail(); err != nil {
			return err
		}
	}
	return in(n.ns, f)
}

func (n nftIn) NewTransaction() *knftables.Transaction { return n.nft.NewTransaction() }

func (n nftIn) Run(ctx context.Context, tx *knftables.Transaction) error {
	return n.do(func() error { return n.nft.Run(ctx, tx) })
}

func (n nftIn) Generation() (gen uint64, err error) {
	err = n.do(func() (err error) { gen, err = n.reader.Generation(); return err })
	return gen, err
}

func (n nftIn) Names(ctx context.Context) (o *elements.Observed, err error) {
	err = n.do(func() (err error) { o, err = n.reader.Names(ctx); return err })
	return o, err
}

func (n nftIn) All(ctx context.Context, read func(string) bool) (o *elements.Observed, err error) {
	err = n.do(func() (err error) { o, err = n.reader.All(ctx, read); return err })
	return o, err
}

func (n nftIn) Rules(ctx context.Context, chain string) (handles []uint64, err error) {
	err = n.do(func() (err error) { handles, err = n.reader.Rules(ctx, chain); return err })
	return handles, err
}

func (n nftIn) Has(ctx context.Context, chain string) (has bool, err error) {
	err = n.do(func() (err error) { has, err = n.reader.Has(ctx, chain); return err })
	return has, err
}

// newNFTables is the backend in a namespace.
func newNFTables(t testing.TB, ns vnetns.NsHandle, o elements.Options, fail func() error) *nftables.Backend {
	t.Helper()
	tool := nftIn{ns: ns, reader: nftables.NewReader(o.Family), fail: fail}
	if err := in(ns, func() (err error) { tool.nft, err = nftables.Detect(t.Context(), o.Family); return err }); err != nil {
		t.Fatal(err)
	}
	b, err := nftables.New(nftables.Config{Options: o, Tool: tool, Kernel: tool, Log: quiet(), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func nftOptions(f corev1.IPFamily) elements.Options {
	return elements.Options{Family: f, MasqueradeBit: 14, Local: snapshot.LocalTraffic{CIDR: proxiertest.PodRange(f)}}
}

// TestNFTables runs the suite of all backends against the kernel's nf_tables.
func TestNFTables(t *testing.T) {
	proxiertest.Run(t, proxiertest.Harness{New: func(t *testing.T, f corev1.IPFamily) (proxier.Backend, proxiertest.World) {
		w := newWorld(t, f)
		return newNFTables(t, w.node, nftOptions(f), oneInTen), w
	}})
}

func bothFamilies(t *testing.T, f func(t *testing.T, f corev1.IPFamily)) {
	t.Helper()
	needRoot(t)
	for _, family := range []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol} {
		t.Run(string(family), func(t *testing.T) { f(t, family) })
	}
}

// nftTable is the table of a family for the program nft.
func nftTable(f corev1.IPFamily) string {
	if f == corev1.IPv6Protocol {
		return "ip6 " + elements.TableName
	}
	return "ip " + elements.TableName
}

// TestNFTablesDrift: an untouched kernel shows no drift, other programs' tables are none, and what
// another program does to ours is seen and repaired.
func TestNFTablesDrift(t *testing.T) {
	bothFamilies(t, func(t *testing.T, f corev1.IPFamily) {
		ns := newNS(t)
		b := newNFTables(t, ns, nftOptions(f), nil)
		table := nftTable(f)
		quickCheck := func(step string, wantWritten, wantLost bool) {
			t.Helper()
			written, lost, err := b.QuickCheck(t.Context())
			if err != nil || written != wantWritten || (lost != "") != wantLost {
				t.Errorf("%s: written %v, lost %q, %v", step, written, lost, err)
			}
		}
		clean := func(step string) {
			t.Helper()
			if drift, err := b.Check(t.Context()); err != nil || drift != nil {
				t.Fatalf("%s: drift %v, %v", step, drift, err)
			}
		}
		nothing := snapshot.Build(nil, nil, proxiertest.NodeView(), f)
		for _, s := range []*snapshot.Snapshot{everything(t, f), nothing, everything(t, f)} {
			proxiertest.Sync(t, b, s)
			quickCheck("after our own sync", false, false)
			clean("of an untouched kernel")
		}
		run(t, ns, "nft", "add table ip other; add chain ip other x")
		quickCheck("after another program's table", true, false)
		quickCheck("the same again", false, false)
		clean("after another program's table")
		vip := everything(t, f).Services[0].Ports[0].ClusterIP.String()
		for _, c := range []struct {
			command string
			lost    bool
		}{
			{"flush chain " + table + " services", false},
			{"add rule " + table + " masquerading counter", false},
			{"delete element " + table + " cluster-ips { " + vip + " }", false},
			{"flush map " + table + " service-ips", false},
			{"flush chain " + table + " reject-chain; add rule " + table + " reject-chain drop", false},
			{"delete chain " + table + " nat-prerouting", true},
			{"delete table " + table, true},
			{"flush ruleset", true},
		} {
			run(t, ns, "nft", c.command)
			quickCheck(c.command, true, c.lost)
			if !c.lost {
				if drift, err := b.Check(t.Context()); err != nil || len(drift) == 0 {
					t.Errorf("after %q: no drift, %v", c.command, err)
				}
			}
			proxiertest.Sync(t, b, everything(t, f))
			quickCheck("after the repair of "+c.command, false, false)
			clean("after the repair of " + c.command)
		}
	})
}

// TestNFTablesCleanupLeavesOthersAlone compares what nft prints before and after.
func TestNFTablesCleanupLeavesOthersAlone(t *testing.T) {
	needRoot(t)
	ns := newNS(t)
	run(t, ns, "nft", "add table ip other; add chain ip other x { type nat hook postrouting priority 100; }; add rule ip other x masquerade; add table inet kube-proxy")
	before := run(t, ns, "nft", "list", "ruleset")
	for _, f := range []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol} {
		b := newNFTables(t, ns, nftOptions(f), nil)
		proxiertest.Sync(t, b, everything(t, f))
		for range 2 {
			if err := b.Cleanup(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if after := run(t, ns, "nft", "list", "ruleset"); after != before {
		t.Errorf("after cleanup:\n%s", golden.LineDiff(before, after))
	}
}

// TestNFTablesConnectionSurvives: a connection through a Service goes on over a new backend (the
// agent restarted), over changes, and over cleanup.
func TestNFTablesConnectionSurvives(t *testing.T) {
	needRoot(t)
	f := corev1.IPv4Protocol
	w := newWorld(t, f)
	// As a CNI plugin has it: while any rule uses conntrack, it works.
	run(t, w.node, "nft", "add table ip other; add chain ip other x { type nat hook postrouting priority 100; }; add rule ip other x ip saddr 10.99.0.0/16 masquerade")
	b := newNFTables(t, w.node, nftOptions(f), nil)
	proxiertest.Sync(t, b, everything(t, f))
	var conns []net.Conn
	for _, from := range []proxiertest.Place{proxiertest.Pod1, proxiertest.Node, proxiertest.Client} {
		c, err := w.dial(from, "tcp", netip.MustParseAddrPort("10.96.0.10:80"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns = append(conns, c)
	}
	for i, step := range []func() error{
		func() error { return newNFTables(t, w.node, nftOptions(f), nil).Sync(t.Context(), everything(t, f)) },
		func() error { return b.Sync(t.Context(), snapshot.Build(nil, nil, proxiertest.NodeView(), f)) },
		func() error { return b.Sync(t.Context(), everything(t, f)) },
		func() error { return b.Cleanup(t.Context()) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
		for _, c := range conns {
			echo(t, c, i)
		}
	}
}

// TestNFTablesRemembersClients: a client keeps its endpoint over a restart of the agent.
func TestNFTablesRemembersClients(t *testing.T) {
	needRoot(t)
	f := corev1.IPv4Protocol
	w := newWorld(t, f)
	objects, err := snapshottest.Parse([]byte(stickyService))
	if err != nil {
		t.Fatal(err)
	}
	s := snapshot.Build(objects.Services, objects.Slices, proxiertest.NodeView(), f)
	proxiertest.Sync(t, newNFTables(t, w.node, nftOptions(f), nil), s)
	to := netip.MustParseAddrPort("10.96.0.10:80")
	first := w.Connect(t, proxiertest.Client, corev1.ProtocolTCP, to)
	for range 8 {
		proxiertest.Sync(t, newNFTables(t, w.node, nftOptions(f), nil), s)
		if got := w.Connect(t, proxiertest.Client, corev1.ProtocolTCP, to); got.At != first.At {
			t.Fatalf("after a restart the client of %s lands on %s", first.At, got.At)
		}
	}
	// Another timeout makes the sets anew; that is a change as any other.
	timeout := int32(60)
	sticky := objects.Services[0].DeepCopy()
	sticky.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &timeout}}
	b := newNFTables(t, w.node, nftOptions(f), nil)
	proxiertest.Sync(t, b, s)
	proxiertest.Sync(t, b, snapshot.Build([]*corev1.Service{sticky}, objects.Slices, proxiertest.NodeView(), f))
	if list := run(t, w.node, "nft", "list table "+nftTable(f)); !strings.Contains(list, "timeout 1m") || strings.Contains(list, "timeout 3h") {
		t.Errorf("the new timeout is not there:\n%s", list)
	}
}

const stickyService = `
kind: Service
metadata: {name: a, namespace: ns}
spec: {clusterIP: 10.96.0.10, sessionAffinity: ClientIP, ports: [{port: 80}]}
---
kind: EndpointSlice
metadata: {name: a, namespace: ns, labels: {kubernetes.io/service-name: a}}
addressType: IPv4
ports: [{port: 8080}]
endpoints:
- {addresses: [10.244.1.11], nodeName: me}
- {addresses: [10.244.1.12], nodeName: me}
- {addresses: [10.244.2.21], nodeName: other}
`

// TestNFTablesTakesOver: whatever a kube-proxy left becomes ours at once, and what nobody needs
// goes a second later.
func TestNFTablesTakesOver(t *testing.T) {
	bothFamilies(t, func(t *testing.T, f corev1.IPFamily) {
		ns := newNS(t)
		table := nftTable(f)
		address := map[corev1.IPFamily]string{corev1.IPv4Protocol: "ipv4_addr", corev1.IPv6Protocol: "ipv6_addr"}[f]
		run(t, ns, "nft", strings.ReplaceAll(`add table TABLE
add chain TABLE nat-prerouting { type nat hook prerouting priority -50; }
add chain TABLE services
add chain TABLE service-OLD
add rule TABLE service-OLD drop
add chain TABLE filter-old { type filter hook input priority 0; }
add rule TABLE filter-old jump services
add map TABLE service-nodeports { type inet_proto . inet_service : verdict; }
add element TABLE service-nodeports { udp . 30053 : goto service-OLD }
add map TABLE old { type inet_service : verdict; }
add element TABLE old { 80 : goto service-OLD }
add set TABLE affinity-old { type `+address+`; flags dynamic,timeout; timeout 60s; }
add rule TABLE nat-prerouting jump services
add rule TABLE services th dport vmap @old`, "TABLE", table))
		b := newNFTables(t, ns, nftOptions(f), nil)
		proxiertest.Sync(t, b, everything(t, f))
		if found := b.FoundUDP(); len(found) != 1 || found[0].Port != 30053 {
			t.Errorf("found UDP ports %v", found)
		}
		for time.Now().Before(b.WakeAt()) {
			time.Sleep(10 * time.Millisecond)
		}
		if drift, err := b.Check(t.Context()); err != nil || drift != nil {
			t.Errorf("after the take-over: %v, %v", drift, err)
		}
		if list := run(t, ns, "nft", "list table "+table); strings.Contains(list, "OLD") || strings.Contains(list, "old") || strings.Contains(list, "priority -50") {
			t.Errorf("what a kube-proxy left is still there:\n%s", list)
		}
		if at := b.WakeAt(); !at.IsZero() {
			t.Errorf("still waiting for stale chains until %v", at)
		}
	})
}

// TestNFTablesOwnRefusal: of a port that the kernel refuses nothing is written, of all others
// everything; and once it is well, it is written too.
func TestNFTablesOwnRefusal(t *testing.T) {
	needRoot(t)
	f := corev1.IPv4Protocol
	ns := newNS(t)
	b := newNFTables(t, ns, nftOptions(f), nil)
	good := everything(t, f)
	bad := *good
	bad.Services = append(slices.Clone(good.Services), &snapshot.Service{Namespace: "ns", Name: "zzz", Ports: []*snapshot.Port{
		{Name: "ns/zzz:p", Protocol: corev1.ProtocolTCP, Port: 80, ClusterIP: netip.MustParseAddr("fd00::1")},
	}})
	for _, first := range []*snapshot.Snapshot{&bad, good} { // at the first sync, and at a later one
		proxiertest.Sync(t, b, snapshot.Build(nil, nil, proxiertest.NodeView(), f))
		if first == good {
			proxiertest.Sync(t, b, good)
		}
		err := b.Sync(t.Context(), &bad)
		var left *snapshot.LeftOutError
		if !errors.As(err, &left) || len(left.Problems) != 1 || !strings.Contains(left.Problems[0].Object, "ns/zzz:p") {
			t.Fatalf("the refused port is not named: %v", err)
		}
		if list := run(t, ns, "nft", "list map "+nftTable(f)+" service-ips"); !strings.Contains(list, "10.96.0.10 . tcp . 80") {
			t.Errorf("another port was not written:\n%s", list)
		}
	}
	if err := b.Sync(t.Context(), good); err != nil {
		t.Error(err)
	}
}

// TestNFTablesPreviewLoads: what `nodeagent render services` prints is input of nft, and the
// kernel then holds what a sync writes.
func TestNFTablesPreviewLoads(t *testing.T) {
	bothFamilies(t, func(t *testing.T, f corev1.IPFamily) {
		file := filepath.Join(t.TempDir(), "preview")
		if err := os.WriteFile(file, []byte(elements.Render(everything(t, f), nftOptions(f)).String()), 0o600); err != nil {
			t.Fatal(err)
		}
		previewed, synced := newNS(t), newNS(t)
		run(t, previewed, "nft", "-f", file)
		proxiertest.Sync(t, newNFTables(t, synced, nftOptions(f), nil), everything(t, f))
		var holds []string
		for _, ns := range []vnetns.NsHandle{previewed, synced} {
			var lines []string
			for _, line := range strings.Split(run(t, ns, "nft", "list table "+nftTable(f)), "\n") {
				if !strings.HasPrefix(strings.TrimSpace(line), "comment ") {
					lines = append(lines, strings.Trim(line, "\t ,{}"))
				}
			}
			slices.Sort(lines)
			holds = append(holds, strings.Join(lines, "\n"))
		}
		if holds[0] != holds[1] {
			t.Errorf("the preview is not what is written:\n%s", golden.LineDiff(holds[0], holds[1]))
		}
	})
}

// TestNFTablesRefusesUnassignedPorts: a port of a cluster IP that no Service has is refused, not
// sent on.
func TestNFTablesRefusesUnassignedPorts(t *testing.T) {
	bothFamilies(t, func(t *testing.T, f corev1.IPFamily) {
		w := newWorld(t, f)
		proxiertest.Sync(t, newNFTables(t, w.node, nftOptions(f), nil), everything(t, f))
		vip := everything(t, f).Services[0].Ports[0].ClusterIP
		for _, from := range []proxiertest.Place{proxiertest.Node, proxiertest.Pod1, proxiertest.Client} {
			if got := w.Connect(t, from, corev1.ProtocolTCP, netip.AddrPortFrom(vip, 9999)); got.Verdict != proxiertest.Rejected {
				t.Errorf("from %s: %s", from, got.Verdict)
			}
		}
	})
}

// TestNFTablesNodePortAddresses: a program of the node that has a node port's number, on an
// address on which node ports do not answer, is reached by everyone.
func TestNFTablesNodePortAddresses(t *testing.T) {
	bothFamilies(t, func(t *testing.T, f corev1.IPFamily) {
		w := newWorld(t, f)
		at := func(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, 30080) }
		loopback, node := at(netip.MustParseAddr(w.text("127.0.0.1", "::1"))), at(proxiertest.Address(proxiertest.Node, f))
		bridge := at(netip.MustParsePrefix(w.gateway()).Addr())
		pod := netip.AddrPortFrom(proxiertest.Address(proxiertest.Pod2, f), proxiertest.TCPPort)
		w.listen(t, loopback)
		w.listen(t, bridge)
		text := strings.NewReplacer("VIP", w.text("10.96.0.10", "fd00:96::10"), "FAMILY", string(f),
			"PORT", strconv.Itoa(int(pod.Port())), "POD", pod.Addr().String()).Replace(nodePortService + nodePortEndpoint)
		objects, err := snapshottest.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		everywhere, network := netip.MustParsePrefix(w.text("0.0.0.0/0", "::/0")), netip.MustParsePrefix(w.uplink()).Masked()
		for _, c := range []struct {
			places snapshot.NodePortAddresses
			to     netip.AddrPort
			from   proxiertest.Place
			want   netip.AddrPort
		}{
			{snapshot.NodePortAddresses{Primary: true}, node, proxiertest.Client, pod},
			{snapshot.NodePortAddresses{Primary: true}, bridge, proxiertest.Pod1, bridge},
			{snapshot.NodePortAddresses{Ranges: []netip.Prefix{network}}, node, proxiertest.Client, pod},
			{snapshot.NodePortAddresses{Ranges: []netip.Prefix{network}}, bridge, proxiertest.Pod1, bridge},
			{snapshot.NodePortAddresses{Ranges: []netip.Prefix{everywhere}, Localhost: true}, bridge, proxiertest.Pod1, pod},
			{snapshot.NodePortAddresses{Ranges: []netip.Prefix{everywhere}, Localhost: true}, loopback, proxiertest.Node, loopback},
		} {
			b := newNFTables(t, w.node, nftOptions(f), nil)
			proxiertest.Sync(t, b, snapshot.NewBuilder(f, c.places).Build(objects.Services, objects.Slices, proxiertest.NodeView()))
			if got := w.Connect(t, c.from, corev1.ProtocolTCP, c.to); got.At != c.want {
				t.Errorf("%+v, from %s to %s: %s at %s, want %s", c.places, c.from, c.to, got.Verdict, got.At, c.want)
			}
			run(t, w.node, "nft", "add table ip foreign") // so that the next look reads everything
			if drift, err := b.Check(t.Context()); err != nil || drift != nil {
				t.Errorf("%+v: drift of a table that nobody touched: %v, %v", c.places, drift, err)
			}
		}
	})
}
