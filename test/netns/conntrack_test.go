package netns

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/proxier/conntrack"
	"github.com/nodeagent/nodeagent/pkg/proxier/proxiertest"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot/snapshottest"
)

const udpService = `
kind: Service
metadata: {name: dns, namespace: ns}
spec:
  clusterIP: VIP
  clusterIPs: ["VIP"]
  ports: [{port: 53, protocol: UDP}]
`

const udpSlice = `
---
kind: EndpointSlice
metadata: {name: dns-1, namespace: ns, labels: {kubernetes.io/service-name: dns}}
addressType: FAMILY
ports: [{port: 5353, protocol: UDP}]
endpoints: [{addresses: ["ENDPOINT"]}]
`

// udpWith is a snapshot with a Service on one endpoint; "" is none.
func udpWith(t *testing.T, f corev1.IPFamily, at proxiertest.Place) *snapshot.Snapshot {
	t.Helper()
	text := udpService
	if at != "" {
		text += strings.ReplaceAll(udpSlice, "ENDPOINT", proxiertest.Address(at, f).String())
	}
	text = strings.NewReplacer("VIP", udpVIP(f).Addr().String(), "FAMILY", string(f)).Replace(text)
	objects, err := snapshottest.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return snapshot.Build(objects.Services, objects.Slices, proxiertest.NodeView(), f)
}

func udpVIP(f corev1.IPFamily) netip.AddrPort {
	if f == corev1.IPv6Protocol {
		return netip.MustParseAddrPort("[fd00:96::53]:53")
	}
	return netip.MustParseAddrPort("10.96.0.53:53")
}

// TestUDPFlowsFollowTheService: a socket that stays open, like a resolver's, always gets its
// answers from the Service's current endpoints.
func TestUDPFlowsFollowTheService(t *testing.T) {
	for _, f := range []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol} {
		t.Run(string(f), func(t *testing.T) {
			w := newWorld(t, f)
			b := newBackend(t, w.node, f, nil)
			cleaner, err := conntrack.New(conntrack.Config{Family: f, Log: quiet(), Now: time.Now})
			if err != nil {
				t.Fatal(err)
			}
			var prev *snapshot.Snapshot
			sync := func(at proxiertest.Place) {
				t.Helper()
				now := udpWith(t, f, at)
				proxiertest.Sync(t, b, now)
				if err := in(w.node, func() error { return cleaner.Synced(t.Context(), prev, now) }); err != nil {
					t.Fatal(err)
				}
				prev = now
			}
			sync(proxiertest.Pod2)
			c, err := w.dial(proxiertest.Pod1, "udp", udpVIP(f))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			wantFrom(t, c, proxiertest.Address(proxiertest.Pod2, f).String())
			sync(proxiertest.Remote)
			wantFrom(t, c, proxiertest.Address(proxiertest.Remote, f).String())
			sync("")
			wantFrom(t, c, "")
			sync(proxiertest.Pod2)
			wantFrom(t, c, proxiertest.Address(proxiertest.Pod2, f).String())
		})
	}
}

// TestUDPFlowsOfServicesDeletedMeanwhile: while the agent is down, a Service loses its endpoints or
// is deleted. The next agent does not know that Service, but finds its rules, and ends the flow
// that they created. The flow of a remaining Service goes on.
func TestUDPFlowsOfServicesDeletedMeanwhile(t *testing.T) {
	for _, f := range []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol} {
		t.Run(string(f), func(t *testing.T) {
			w := newWorld(t, f)
			proxiertest.Sync(t, newBackend(t, w.node, f, nil), udpWith(t, f, proxiertest.Pod2))
			c, err := w.dial(proxiertest.Pod1, "udp", udpVIP(f))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			from := proxiertest.Address(proxiertest.Pod2, f).String()
			wantFrom(t, c, from)
			for _, next := range []struct {
				now  *snapshot.Snapshot
				want string
			}{
				{udpWith(t, f, proxiertest.Pod2), from},
				{udpWith(t, f, ""), ""},
				{udpWith(t, f, proxiertest.Pod2), from},
				{&snapshot.Snapshot{Family: f, Node: proxiertest.NodeView()}, ""},
			} {
				b := newBackend(t, w.node, f, nil)
				cleaner, err := conntrack.New(conntrack.Config{Family: f, Log: quiet(), Now: time.Now, Found: b.FoundUDP})
				if err != nil {
					t.Fatal(err)
				}
				proxiertest.Sync(t, b, next.now)
				if err := in(w.node, func() error { return cleaner.Synced(t.Context(), nil, next.now) }); err != nil {
					t.Fatal(err)
				}
				wantFrom(t, c, next.want)
			}
		})
	}
}

// wantFrom asks until the answer comes from there; "" wants none.
func wantFrom(t *testing.T, c net.Conn, want string) {
	t.Helper()
	buf := make([]byte, 256)
	got := ""
	for range 25 {
		_ = c.SetDeadline(time.Now().Add(dropTime))
		_, _ = c.Write([]byte("?"))
		n, err := c.Read(buf)
		got = string(buf[:n])
		if err == nil && want != "" && strings.Contains(got, want) || err != nil && want == "" {
			return
		}
	}
	t.Fatalf("the answer is %q, want it from %q", got, want)
}
