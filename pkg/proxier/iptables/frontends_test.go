package iptables

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/internal/fakekernel"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot/snapshottest"
)

const udpPorts = `
kind: Service
metadata: {name: a, namespace: ns}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.10
  externalIPs: [203.0.113.9]
  ports:
  - {name: dns, port: 53, protocol: UDP, nodePort: 30053}
  - {name: tcp, port: 53, nodePort: 30054}
status: {loadBalancer: {ingress: [{ip: 198.51.100.9}]}}
---
kind: Service
metadata: {name: empty, namespace: ns}
spec:
  type: NodePort
  clusterIP: 10.96.0.11
  ports: [{port: 54, protocol: UDP, nodePort: 30055}]
`

const udpEndpoint = `
---
kind: EndpointSlice
metadata: {name: a-1, namespace: ns, labels: {kubernetes.io/service-name: a}}
addressType: IPv4
ports: [{name: dns, port: 5353, protocol: UDP}, {name: tcp, port: 5353}]
endpoints: [{addresses: [10.244.1.1]}]
`

// TestUDPFrontendsAreRead: of what one agent wrote, the next reads every address and node port of
// UDP, with endpoints and without.
func TestUDPFrontendsAreRead(t *testing.T) {
	const want = "[{UDP invalid IP 30053} {UDP invalid IP 30055} {UDP 10.96.0.10 53} {UDP 10.96.0.11 54} {UDP 198.51.100.9 53} {UDP 203.0.113.9 53}]"
	for name, text := range map[string]string{"an endpoint": udpPorts + udpEndpoint, "none": udpPorts} {
		objects, err := snapshottest.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		k := fakekernel.New(corev1.IPv4Protocol)
		if err := newBackend(t, k).Sync(t.Context(), snapshot.Build(objects.Services, objects.Slices, snapshottest.Node(), corev1.IPv4Protocol)); err != nil {
			t.Fatal(err)
		}
		next := newBackend(t, k)
		if got := next.FoundUDP(); got != nil {
			t.Errorf("before its first sync it has found %v", got)
		}
		for range 2 { // what it wrote itself is not the past
			if err := next.Sync(t.Context(), &snapshot.Snapshot{Family: corev1.IPv4Protocol}); err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(next.FoundUDP()); got != want {
				t.Errorf("with %s:\n got %s\nwant %s", name, got, want)
			}
		}
	}
}
