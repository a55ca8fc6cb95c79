package conntrack

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot/snapshottest"
)

const svcDNS = `
kind: Service
metadata: {name: dns, namespace: ns}
spec:
  type: NodePort
  clusterIP: 10.96.0.10
  externalIPs: [203.0.113.9]
  ports:
  - {port: 53, protocol: UDP, nodePort: 30053}
  - {name: tcp, port: 53, nodePort: 30054}
`

const twoEndpoints = `
---
kind: EndpointSlice
metadata: {name: dns-1, namespace: ns, labels: {kubernetes.io/service-name: dns}}
addressType: IPv4
ports:
- {port: 5353, protocol: UDP}
endpoints:
- {addresses: [10.244.1.1]}
- {addresses: [10.244.1.2], conditions: {ready: false, serving: true, terminating: true}}
- {addresses: [10.244.1.3], conditions: {ready: false, serving: false, terminating: true}}
`

func snapshotOf(t *testing.T, text string) *snapshot.Snapshot {
	t.Helper()
	objects, err := snapshottest.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	n := snapshot.Node{Name: "me", Local: []netip.Addr{netip.MustParseAddr("192.168.77.2")}}
	return snapshot.Build(objects.Services, objects.Slices, n, corev1.IPv4Protocol)
}

func TestStale(t *testing.T) {
	full, none, gone := snapshotOf(t, svcDNS+twoEndpoints), snapshotOf(t, svcDNS), snapshotOf(t, "")
	for _, c := range []struct {
		name      string
		prev, now *snapshot.Snapshot
		dst, src  string
		stale     bool
	}{
		{"ready endpoint", nil, full, "10.96.0.10:53", "10.244.1.1:5353", false},
		{"serving endpoint that terminates", nil, full, "10.96.0.10:53", "10.244.1.2:5353", false},
		{"endpoint that does not serve", nil, full, "10.96.0.10:53", "10.244.1.3:5353", true},
		{"endpoint that is gone", nil, full, "10.96.0.10:53", "10.244.9.9:5353", true},
		{"another port of an endpoint", nil, full, "10.96.0.10:53", "10.244.1.1:53", true},
		{"not translated before there were endpoints", nil, full, "10.96.0.10:53", "10.96.0.10:53", true},
		{"another port of the address", nil, full, "10.96.0.10:99", "10.244.9.9:5353", false},
		{"external IP", nil, full, "203.0.113.9:53", "10.244.9.9:5353", true},
		{"node port", nil, full, "192.168.77.2:30053", "10.244.9.9:5353", true},
		{"node port, endpoint serves", nil, full, "192.168.77.2:30053", "10.244.1.1:5353", false},
		{"the same port of another host", nil, full, "192.0.2.1:30053", "192.0.2.1:30053", false},
		{"node port of TCP", nil, full, "192.168.77.2:30054", "10.244.9.9:5353", false},
		{"no endpoints left", full, none, "10.96.0.10:53", "10.244.1.1:5353", true},
		{"no endpoints left, node port", nil, none, "192.168.77.2:30053", "10.244.1.1:5353", true},
		{"no endpoints, being rejected", full, none, "10.96.0.10:53", "10.96.0.10:53", false},
		{"deleted Service", full, gone, "10.96.0.10:53", "10.244.1.1:5353", true},
		{"deleted Service, node port", full, gone, "192.168.77.2:30053", "10.244.1.1:5353", true},
		{"nothing of ours", full, gone, "8.8.8.8:53", "8.8.8.8:53", false},
	} {
		plan := NewPlan(Past{Snapshot: c.prev}, c.now)
		if got := plan.Stale(Flow{netip.MustParseAddrPort(c.dst), netip.MustParseAddrPort(c.src)}); got != c.stale {
			t.Errorf("%s: stale is %v, want %v", c.name, got, c.stale)
		}
	}
}

// TestStaleFrontends: what only the kernel's rules knew of.
func TestStaleFrontends(t *testing.T) {
	full, gone := snapshotOf(t, svcDNS+twoEndpoints), snapshotOf(t, "")
	frontends := []snapshot.Frontend{
		{Protocol: corev1.ProtocolUDP, Addr: netip.MustParseAddr("10.96.0.10"), Port: 53},
		{Protocol: corev1.ProtocolUDP, Port: 30053},
		{Protocol: corev1.ProtocolTCP, Addr: netip.MustParseAddr("10.96.0.11"), Port: 53},
		{Protocol: corev1.ProtocolTCP, Port: 30055},
	}
	for _, c := range []struct {
		name     string
		now      *snapshot.Snapshot
		dst, src string
		stale    bool
	}{
		{"deleted Service", gone, "10.96.0.10:53", "10.244.1.1:5353", true},
		{"another port of its address", gone, "10.96.0.10:54", "10.244.1.1:5353", false},
		{"deleted Service, node port", gone, "192.168.77.2:30053", "10.244.1.1:5353", true},
		{"the same port of another host", gone, "192.0.2.1:30053", "10.244.1.1:5353", false},
		{"deleted Service, rejected since", gone, "10.96.0.10:53", "10.96.0.10:53", false},
		{"Service that is there", full, "10.96.0.10:53", "10.244.1.1:5353", false},
		{"Service that is there, node port", full, "192.168.77.2:30053", "10.244.1.1:5353", false},
		{"address of TCP", gone, "10.96.0.11:53", "10.244.1.1:5353", false},
		{"node port of TCP", gone, "192.168.77.2:30055", "10.244.1.1:5353", false},
	} {
		plan := NewPlan(Past{Frontends: frontends}, c.now)
		if got := plan.Stale(Flow{netip.MustParseAddrPort(c.dst), netip.MustParseAddrPort(c.src)}); got != c.stale {
			t.Errorf("%s: stale is %v, want %v", c.name, got, c.stale)
		}
	}
}

func TestChanged(t *testing.T) {
	full := snapshotOf(t, svcDNS+twoEndpoints)
	for _, c := range []struct {
		name      string
		prev, now *snapshot.Snapshot
		want      bool
	}{
		{"first", nil, full, true},
		{"same", full, full, false},
		{"endpoints gone", full, snapshotOf(t, svcDNS), true},
		{"Service gone", full, snapshotOf(t, ""), true},
		{"nothing and nothing", snapshotOf(t, ""), snapshotOf(t, ""), false},
	} {
		if got := Changed(c.prev, c.now); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
