package iptables

import (
	"io"
	"log/slog"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/internal/fakekernel"
	"github.com/nodeagent/nodeagent/internal/golden"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot/snapshottest"
)

// lives are what one Service is, one after the other: type, families, protocols, ports, names of
// ports, addresses and policies are others each time.
var lives = []string{`
  type: ClusterIP
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10]
  ports: [{name: web, port: 80}, {name: dns, port: 53, protocol: UDP}]
`, `
  type: NodePort
  clusterIP: "fd00:96::20"
  clusterIPs: ["fd00:96::20", 10.96.0.20]
  sessionAffinity: ClientIP
  externalTrafficPolicy: Local
  ports: [{name: dns, port: 443, nodePort: 30443}, {name: web, port: 53, protocol: SCTP, nodePort: 30053}]
`, `
  type: ExternalName
  externalName: example.com
`, `
  type: LoadBalancer
  clusterIP: "fd00:96::30"
  clusterIPs: ["fd00:96::30"]
  externalIPs: [203.0.113.9, "2001:db8::9"]
  loadBalancerSourceRanges: [10.0.0.0/8, "fd00::/8"]
  ports: [{port: 8443, nodePort: 30443, protocol: UDP}]
`, `
  type: ClusterIP
  clusterIP: None
  ports: [{port: 80}]
`, `
  type: LoadBalancer
  clusterIP: 10.96.0.40
  clusterIPs: [10.96.0.40, "fd00:96::40"]
  internalTrafficPolicy: Local
  allocateLoadBalancerNodePorts: false
  ports: [{name: web, port: 80, protocol: UDP}]
`}

const livesSlices = `
---
kind: EndpointSlice
metadata: {name: s-4, namespace: ns, labels: {kubernetes.io/service-name: s}}
addressType: IPv4
ports: [{name: web, port: 8080}, {name: dns, port: 5353, protocol: UDP}, {name: "", port: 8443, protocol: UDP}]
endpoints: [{addresses: [10.244.1.1], nodeName: me}, {addresses: [10.244.2.1], nodeName: other}]
---
kind: EndpointSlice
metadata: {name: s-6, namespace: ns, labels: {kubernetes.io/service-name: s}}
addressType: IPv6
ports: [{name: web, port: 8080}, {name: dns, port: 5353}, {name: "", port: 8443, protocol: UDP}]
endpoints: [{addresses: ["fd00:244:1::1"], nodeName: me}, {addresses: ["fd00:244:2::1"], nodeName: other}]
`

// TestAServiceBecomesAnother: whatever one update changes, the kernel is as if the Service had
// never been anything else.
func TestAServiceBecomesAnother(t *testing.T) {
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	for _, f := range []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol} {
		backend := func(k *fakekernel.Kernel) *Backend {
			b, err := New(Config{Options: testOptions(f), Tool: fakeTool{k}, Log: quiet})
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		for from := range lives {
			for to := range lives {
				k, fresh := fakekernel.New(f), fakekernel.New(f)
				builder, b := snapshot.NewBuilder(f, snapshot.NodePortAddresses{}), backend(k)
				for _, life := range []string{lives[from], lives[to]} {
					objects, err := snapshottest.Parse([]byte("kind: Service\nmetadata: {name: s, namespace: ns}\nspec:" + life + livesSlices))
					if err != nil {
						t.Fatal(err)
					}
					if err := b.Sync(t.Context(), builder.Build(objects.Services, objects.Slices, snapshottest.Node())); err != nil {
						t.Fatal(err)
					}
					if life != lives[to] {
						continue
					}
					if err := backend(fresh).Sync(t.Context(), snapshot.Build(objects.Services, objects.Slices, snapshottest.Node(), f)); err != nil {
						t.Fatal(err)
					}
				}
				if got, want := sortedLines(k), sortedLines(fresh); got != want {
					t.Errorf("%s, from %s to %s:\n%s", f, lives[from], lives[to], golden.LineDiff(want, got))
				}
			}
		}
	}
}
