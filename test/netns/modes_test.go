package netns

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/proxier/modes"
	"github.com/nodeagent/nodeagent/pkg/proxier/proxiertest"
)

// TestCleanupOfEveryMode: what is installed of any mode is found and removed, whatever the
// configuration says by then, and what others wrote stays.
func TestCleanupOfEveryMode(t *testing.T) {
	needRoot(t)
	ns := newNS(t)
	run(t, ns, "sh", "-c", "iptables -t nat -N MINE; iptables -t nat -A POSTROUTING -j MINE")
	for _, f := range []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol} {
		proxiertest.Sync(t, newBackend(t, ns, f, nil), everything(t, f))
	}
	run(t, ns, "sh", "-c", "nft add table ip6 kube-proxy; ip link add kube-ipvs0 type bridge; ip addr add 10.96.0.1/32 dev kube-ipvs0")
	cleanup := func() (removed []string) {
		t.Helper()
		err := in(ns, func() error {
			return modes.Cleanup(t.Context(), modes.Config{Log: quiet()}, func(what string) { removed = append(removed, what) })
		})
		if err != nil {
			t.Fatal(err)
		}
		return removed
	}
	removed := cleanup()
	for _, want := range []string{"Service rules (IPv4", "Service rules (IPv6", "the nftables table kube-proxy (IPv6)", "kube-proxy's virtual servers and ip sets (IPv4)"} {
		if !slices.ContainsFunc(removed, func(what string) bool { return strings.HasPrefix(what, want) }) {
			t.Errorf("it does not say that it removed %s: %q", want, removed)
		}
	}
	after := run(t, ns, "sh", "-c", "iptables-save; ip6tables-save; nft list tables; ip -br link")
	for _, gone := range []string{"KUBE-", "kube-proxy", "kube-ipvs0"} {
		if strings.Contains(after, gone) {
			t.Errorf("%s is left:\n%s", gone, after)
		}
	}
	if !strings.Contains(after, "-A POSTROUTING -j MINE") {
		t.Errorf("another program's rule is gone:\n%s", after)
	}
	if again := cleanup(); len(again) > 0 {
		t.Errorf("cleaned up already, it says that it removed %q", again)
	}
}
