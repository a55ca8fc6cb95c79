package iptables

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/internal/fakekernel"
	"github.com/nodeagent/nodeagent/internal/golden"
	"github.com/nodeagent/nodeagent/pkg/proxier/iptables/rules"
)

// ipvsRules is what kube-proxy in mode ipvs has, without its ip sets.
const ipvsRules = `*filter
:KUBE-FORWARD - [0:0]
:KUBE-IPVS-FILTER - [0:0]
:KUBE-IPVS-OUT-FILTER - [0:0]
:KUBE-NODE-PORT - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SOURCE-RANGES-FIREWALL - [0:0]
-A KUBE-IPVS-FILTER -d 10.96.0.1/32 -j RETURN
-A KUBE-NODE-PORT -p tcp -m tcp --dport 30000 -j ACCEPT
-A KUBE-PROXY-FIREWALL -j KUBE-SOURCE-RANGES-FIREWALL
-A KUBE-SOURCE-RANGES-FIREWALL -j DROP
COMMIT
*nat
:KUBE-LOAD-BALANCER - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODE-PORT - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SERVICES - [0:0]
-A KUBE-SERVICES -j KUBE-LOAD-BALANCER
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODE-PORT
-A KUBE-LOAD-BALANCER -j KUBE-MARK-MASQ
-A KUBE-NODE-PORT -p tcp -j KUBE-MARK-MASQ
COMMIT
`

func ipvsKernel(t *testing.T) *fakekernel.Kernel {
	t.Helper()
	k := fakekernel.New(corev1.IPv4Protocol)
	if err := k.Restore(foreign); err != nil {
		t.Fatal(err)
	}
	if err := k.Restore(ipvsRules); err != nil {
		t.Fatal(err)
	}
	for _, j := range rules.IPVSJumps() {
		if err := k.Insert(j.Table, j.From, j.Rule); err != nil {
			t.Fatal(err)
		}
	}
	return k
}

// TestTakeoverFromIPVS: with the first sync only the guards are left of mode ipvs, and with them
// gone it is as if it had never been.
func TestTakeoverFromIPVS(t *testing.T) {
	for _, s := range scenes(t) {
		never := fakekernel.New(corev1.IPv4Protocol)
		if err := never.Restore(foreign); err != nil {
			t.Fatal(err)
		}
		if err := newBackend(t, never).Sync(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		k := ipvsKernel(t)
		b := newBackend(t, k)
		if err := b.Sync(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		got := k.String()
		if !strings.Contains(got, "-j KUBE-IPVS-FILTER") || !strings.Contains(got, "KUBE-IPVS-OUT-FILTER") {
			t.Errorf("guards are gone while addresses may be there:\n%s", got)
		}
		for _, gone := range []string{"KUBE-NODE-PORT ", "KUBE-LOAD-BALANCER", "KUBE-SOURCE-RANGES", "kube-proxy firewall rules"} {
			if strings.Contains(got, gone) {
				t.Errorf("%s is there still:\n%s", gone, got)
			}
		}
		for range 2 {
			if err := b.RemoveGuards(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if got, want := anyOrder(k), anyOrder(never); got != want {
			t.Errorf("without guards:\n%s", golden.LineDiff(want, got))
		}
		if drift, err := b.Check(t.Context()); err != nil || drift != nil {
			t.Errorf("our rules suffered: %v, %v", drift, err)
		}
	}
}

// anyOrder: chains were made in another order; that of rules is what Check looks at.
func anyOrder(k *fakekernel.Kernel) string {
	lines := strings.Split(k.String(), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// TestCleanupAfterIPVS works without a sync before it.
func TestCleanupAfterIPVS(t *testing.T) {
	clean := fakekernel.New(corev1.IPv4Protocol)
	if err := clean.Restore(foreign); err != nil {
		t.Fatal(err)
	}
	k := ipvsKernel(t)
	for range 2 {
		if err := newBackend(t, k).Cleanup(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := k.String(), clean.String(); got != want {
		t.Errorf("after cleanup:\n%s", golden.LineDiff(want, got))
	}
}
