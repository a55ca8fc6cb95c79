package netns

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/proxier/nftables"
	"github.com/nodeagent/nodeagent/pkg/proxier/proxiertest"
)

// TestNftablesOfKubeProxyLeave: its table of the family goes, and nobody else's.
func TestNftablesOfKubeProxyLeave(t *testing.T) {
	needRoot(t)
	ns := newNS(t)
	run(t, ns, "nft", "add table ip kube-proxy; add chain ip kube-proxy services { type nat hook prerouting priority -100; }; "+
		"add map ip kube-proxy service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }; "+
		"add table ip mine; add table ip6 kube-proxy; add table inet kube-proxy")
	b := newBackend(t, ns, corev1.IPv4Protocol, nil)
	proxiertest.Sync(t, b, everything(t, corev1.IPv4Protocol))
	l, err := nftables.NewLeaver(corev1.IPv4Protocol, quiet())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := in(ns, func() error { _, err := l.Leave(t.Context()); return err }); err != nil {
			t.Fatal(err)
		}
	}
	tables := run(t, ns, "nft", "list", "tables")
	if strings.Contains(tables, "table ip kube-proxy") {
		t.Errorf("kube-proxy's table is still there:\n%s", tables)
	}
	for _, name := range []string{"table ip mine", "table ip6 kube-proxy", "table inet kube-proxy", "table ip nat"} {
		if !strings.Contains(tables, name+"\n") {
			t.Errorf("%s is gone:\n%s", name, tables)
		}
	}
	if drift, err := b.Check(t.Context()); err != nil || drift != nil {
		t.Errorf("our rules suffered: %v, %v", drift, err)
	}
}
