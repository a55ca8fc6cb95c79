package netns

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/proxier/iptables"
	"github.com/nodeagent/nodeagent/pkg/proxier/proxiertest"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot/snapshottest"
)

const nodePortService = `
kind: Service
metadata: {name: a, namespace: ns}
spec: {type: NodePort, clusterIP: "VIP", ports: [{port: 80, nodePort: 30080}]}
`

const nodePortEndpoint = `
---
kind: EndpointSlice
metadata: {name: a, namespace: ns, labels: {kubernetes.io/service-name: a}}
addressType: FAMILY
ports: [{port: PORT}]
endpoints: [{addresses: ["POD"], nodeName: me, conditions: {ready: true}}]
`

// TestNodePortAddresses: a program of the node that listens on a node port's number, at an address
// where node ports do not answer, can be reached by everyone, whether the Service has endpoints or
// not; and Check accepts what the kernel prints of such rules.
func TestNodePortAddresses(t *testing.T) {
	for _, variant := range []string{"nft", "legacy"} {
		for _, f := range []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol} {
			t.Run(variant+"/"+string(f), func(t *testing.T) {
				needRoot(t)
				useVariant(t, variant)
				testNodePortAddresses(t, f)
			})
		}
	}
}

func testNodePortAddresses(t *testing.T, f corev1.IPFamily) {
	w := newWorld(t, f)
	at := func(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, 30080) }
	loopback, node := at(netip.MustParseAddr(w.text("127.0.0.1", "::1"))), at(proxiertest.Address(proxiertest.Node, f))
	bridge := at(netip.MustParsePrefix(w.gateway()).Addr())
	pod := netip.AddrPortFrom(proxiertest.Address(proxiertest.Pod2, f), proxiertest.TCPPort)
	w.listen(t, loopback)
	w.listen(t, bridge)
	everywhere := "0.0.0.0/0"
	if w.v6() {
		everywhere = "::/0"
	}
	own := netip.PrefixFrom(node.Addr(), node.Addr().BitLen()).String()
	for _, c := range []struct {
		ranges    string
		endpoint  bool
		to        netip.AddrPort
		from      proxiertest.Place
		want      netip.AddrPort // zero: rejected
		otherwise string
	}{
		{own, false, node, proxiertest.Client, netip.AddrPort{}, "refused"},
		{own, false, bridge, proxiertest.Pod1, bridge, "the program"},
		{own, false, loopback, proxiertest.Node, loopback, "the program"},
		{own, true, node, proxiertest.Client, pod, "the pod"},
		{own, true, bridge, proxiertest.Pod1, bridge, "the program"},
		{own, true, loopback, proxiertest.Node, loopback, "the program"},
		{everywhere, false, bridge, proxiertest.Pod1, netip.AddrPort{}, "refused"},
		{everywhere, false, loopback, proxiertest.Node, loopback, "the program"},
		{everywhere, true, bridge, proxiertest.Pod1, pod, "the pod"},
		{everywhere, true, loopback, proxiertest.Node, loopback, "the program"},
	} {
		o := options(f)
		nodePorts := snapshot.NodePortAddresses{Ranges: []netip.Prefix{netip.MustParsePrefix(c.ranges)}}
		b, err := iptables.New(iptables.Config{Options: o, Tool: toolIn{w.node, detect(t, w.node, f), nil}, Log: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		text := nodePortService
		if c.endpoint {
			text += nodePortEndpoint
		}
		text = strings.NewReplacer("VIP", w.text("10.96.0.10", "fd00:96::10"), "FAMILY", string(f),
			"PORT", strconv.Itoa(int(pod.Port())), "POD", pod.Addr().String()).Replace(text)
		objects, err := snapshottest.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		proxiertest.Sync(t, b, snapshot.NewBuilder(f, nodePorts).Build(objects.Services, objects.Slices, proxiertest.NodeView()))
		got := w.Connect(t, c.from, corev1.ProtocolTCP, c.to)
		if (got.Verdict == proxiertest.Landed) != c.want.IsValid() || got.At != c.want {
			t.Errorf("nodePortAddresses %s, endpoints %v, from %s to %s: %s at %s, want %s", c.ranges, c.endpoint, c.from, c.to, got.Verdict, got.At, c.otherwise)
		}
		// so that the next Check reads everything
		run(t, w.node, w.text("iptables", "ip6tables"), "-t", "mangle", "-N", "FOREIGN")
		if drift, err := b.Check(t.Context()); err != nil || len(drift) > 0 {
			t.Errorf("nodePortAddresses %s: drift of rules that nobody touched: %v, %v", c.ranges, drift, err)
		}
		run(t, w.node, w.text("iptables", "ip6tables"), "-t", "mangle", "-X", "FOREIGN")
	}
}

// listen is a program of the node.
func (w *world) listen(t *testing.T, at netip.AddrPort) {
	t.Helper()
	var listener net.Listener
	if err := in(w.node, func() (err error) { listener, err = net.Listen("tcp", at.String()); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go answer(c)
		}
	}()
}
