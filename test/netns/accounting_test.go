package netns

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/proxier/iptables"
	"github.com/nodeagent/nodeagent/pkg/proxier/iptables/rules"
	"github.com/nodeagent/nodeagent/pkg/proxier/nfacct"
	"github.com/nodeagent/nodeagent/pkg/proxier/proxiertest"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot/snapshottest"
)

const localNodePort = `
apiVersion: v1
kind: Service
metadata: {name: a, namespace: ns}
spec:
  type: NodePort
  clusterIP: 10.96.0.1
  ports: [{port: 80, nodePort: 30080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: a, namespace: ns, labels: {kubernetes.io/service-name: a}}
addressType: IPv4
ports: [{port: PORT}]
endpoints: [{addresses: ["POD"], nodeName: me, conditions: {ready: true}}]
`

// TestAccounting: packets to a node port on 127.0.0.1 are counted, by rules that the kernel prints
// as they were written; a missing counter is noticed beforehand.
func TestAccounting(t *testing.T) {
	for _, variant := range []string{"nft", "legacy"} {
		t.Run(variant, func(t *testing.T) {
			needRoot(t)
			useVariant(t, variant)
			f := corev1.IPv4Protocol
			w := newWorld(t, f)
			p := detect(t, w.node, f)
			if err := in(w.node, func() error { return p.Accounting(t.Context(), rules.CountInvalid) }); err == nil {
				t.Error("a counter that is not there can be used")
			}
			if err := in(w.node, func() error { return nfacct.Ensure(rules.CountInvalid, rules.CountLocalhost) }); err != nil {
				t.Skipf("this kernel has no such counters: %v", err)
			}
			if err := in(w.node, func() error { return nfacct.Ensure(rules.CountInvalid) }); err != nil {
				t.Errorf("made twice: %v", err)
			}
			if err := in(w.node, func() error { return p.Accounting(t.Context(), rules.CountInvalid) }); err != nil {
				t.Fatal(err)
			}
			if err := in(w.node, func() error { return sysctl("net/ipv4/conf/all/route_localnet", "1") }); err != nil {
				t.Fatal(err)
			}
			o := options(f)
			o.Accounting, o.Localhost = true, true
			b, err := iptables.New(iptables.Config{Options: o, Tool: toolIn{w.node, p, nil}, Log: quiet()})
			if err != nil {
				t.Fatal(err)
			}
			pod := netip.AddrPortFrom(proxiertest.Address(proxiertest.Pod1, f), proxiertest.TCPPort)
			text := strings.NewReplacer("PORT", strconv.Itoa(int(pod.Port())), "POD", pod.Addr().String()).Replace(localNodePort)
			objects, err := snapshottest.Parse([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			builder := snapshot.NewBuilder(f, snapshot.NodePortAddresses{Localhost: true})
			proxiertest.Sync(t, b, builder.Build(objects.Services, objects.Slices, proxiertest.NodeView()))
			if drift, err := b.Check(t.Context()); err != nil || drift != nil {
				t.Errorf("drift of an untouched kernel: %v, %v", drift, err)
			}
			before := counted(t, w)
			var c net.Conn
			if err := in(w.node, func() (err error) { c, err = net.Dial("tcp", "127.0.0.1:30080"); return err }); err != nil {
				t.Fatal(err)
			}
			_ = c.Close()
			if after := counted(t, w); after != before+1 {
				t.Errorf("%d new connections were counted, want 1", after-before)
			}
		})
	}
}

func counted(t *testing.T, w *world) (packets uint64) {
	t.Helper()
	if err := in(w.node, func() (err error) { packets, err = nfacct.Packets(rules.CountLocalhost); return err }); err != nil {
		t.Fatal(err)
	}
	return packets
}
