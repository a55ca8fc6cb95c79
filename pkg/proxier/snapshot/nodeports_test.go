package snapshot_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// TestPlacesOfNodePorts: as kube-proxy has them, loopback addresses excluded wherever they are not
// asked for.
func TestPlacesOfNodePorts(t *testing.T) {
	v4, v6 := corev1.IPv4Protocol, corev1.IPv6Protocol
	for _, c := range []struct {
		ranges    string
		f         corev1.IPFamily
		localhost bool
		want      string
		has, not  string
	}{
		{"", v4, false, "{All:true Ranges:[] Loopback:false}", "192.0.2.1", "127.0.0.1"},
		{"", v4, true, "{All:true Ranges:[] Loopback:true}", "127.0.0.1", ""},
		{"", v6, true, "{All:true Ranges:[] Loopback:false}", "2001:db8::1", "::1"},
		{"0.0.0.0/0 ::/0", v4, false, "{All:true Ranges:[] Loopback:false}", "192.0.2.1", "127.0.0.1"},
		{"0.0.0.0/0 ::/0", v6, false, "{All:true Ranges:[] Loopback:false}", "2001:db8::1", "::1"},
		{"10.0.0.0/8 0.0.0.0/0", v4, true, "{All:true Ranges:[] Loopback:true}", "127.0.0.1", ""},
		{"fd00::/8", v4, false, "{All:true Ranges:[] Loopback:false}", "192.0.2.1", "127.0.0.1"},
		{"192.0.2.7/24 10.0.0.0/8 10.0.0.0/8", v4, true, "{All:false Ranges:[10.0.0.0/8 192.0.2.0/24] Loopback:false}", "10.1.1.1", "127.0.0.1 198.51.100.1"},
		{"127.0.0.0/8", v4, false, "{All:false Ranges:[] Loopback:false}", "", "127.0.0.1"},
		{"127.0.0.1/32 10.0.0.0/8", v4, true, "{All:false Ranges:[10.0.0.0/8 127.0.0.1/32] Loopback:true}", "127.0.0.1", "127.0.0.2"},
		{"96.0.0.0/3", v4, false, "{All:false Ranges:[96.0.0.0/4 112.0.0.0/5 120.0.0.0/6 124.0.0.0/7 126.0.0.0/8] Loopback:false}", "126.255.255.255", "127.0.0.1 128.0.0.0"},
		{"::/126 fd00::/8", v6, false, "{All:false Ranges:[::/128 ::2/127 fd00::/8] Loopback:false}", "fd00::1 ::2", "::1"},
		{"primary", v4, true, "{All:false Ranges:[192.168.77.2/32] Loopback:false}", "192.168.77.2", "127.0.0.1 192.168.77.3"},
		{"primary", v6, false, "{All:false Ranges:[fd77::2/128] Loopback:false}", "fd77::2", "::1"},
	} {
		a := snapshot.NodePortAddresses{Localhost: c.localhost}
		for _, text := range strings.Fields(c.ranges) {
			if a.Primary = text == "primary"; !a.Primary {
				a.Ranges = append(a.Ranges, netip.MustParsePrefix(text))
			}
		}
		p := a.At(c.f, testNode)
		if got := fmt.Sprintf("%+v", p); got != c.want {
			t.Errorf("%q, %s, localhost %v:\n got %s\nwant %s", c.ranges, c.f, c.localhost, got, c.want)
		}
		for _, text := range strings.Fields(c.has) {
			if !p.Has(netip.MustParseAddr(text)) {
				t.Errorf("%q, %s: %s is not among %+v", c.ranges, c.f, text, p)
			}
		}
		for _, text := range strings.Fields(c.not) {
			if p.Has(netip.MustParseAddr(text)) {
				t.Errorf("%q, %s: %s is among %+v", c.ranges, c.f, text, p)
			}
		}
	}
	if p := (snapshot.NodePortAddresses{Primary: true}).At(v4, snapshot.Node{}); p.All || len(p.Ranges) > 0 {
		t.Errorf("while the primary address is not known: %+v", p)
	}
}
