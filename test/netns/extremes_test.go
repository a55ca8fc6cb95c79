package netns

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeagent/nodeagent/pkg/proxier/iptables"
	"github.com/nodeagent/nodeagent/pkg/proxier/proxiertest"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

const crowd = 1000

// crowdAddress is the i-th of a thousand endpoints.
func crowdAddress(f corev1.IPFamily, i int) netip.Addr {
	if f == corev1.IPv6Protocol {
		return netip.MustParseAddr(fmt.Sprintf("fd00:200::%x", i+1))
	}
	return netip.AddrFrom4([4]byte{10, 200, byte(i >> 8), byte(i)})
}

// extreme is a Service with the longest names that the API allows, a thousand endpoints and every
// kind of rule.
func extreme(f corev1.IPFamily) *snapshot.Snapshot {
	long := func(letter string) string { return strings.Repeat(letter, 63) }
	port := func(name string) corev1.ServicePort { return corev1.ServicePort{Name: name, Port: 80, NodePort: 30081} }
	address := func(v4, v6 string) string {
		if f == corev1.IPv6Protocol {
			return v6
		}
		return v4
	}
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: long("n"), Name: long("s")},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, ClusterIP: address("10.96.0.81", "fd00:96::81"), Ports: []corev1.ServicePort{port(long("p"))},
			ExternalIPs:              []string{address("198.51.100.81", "2001:db8:100::81")},
			LoadBalancerSourceRanges: []string{address("10.0.0.0/8", "fd00::/8")},
			ExternalTrafficPolicy:    corev1.ServiceExternalTrafficPolicyLocal,
		},
		Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: address("198.51.100.82", "2001:db8:100::82")}}}},
	}
	number, name := int32(9090), long("p")
	slice := &discoveryv1.EndpointSlice{
		AddressType: discoveryv1.AddressType(f), Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &number}},
		ObjectMeta: metav1.ObjectMeta{Namespace: long("n"), Name: long("e"), Labels: map[string]string{discoveryv1.LabelServiceName: long("s")}},
	}
	for i := range crowd {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{crowdAddress(f, i).String()}})
	}
	sticky := svc.DeepCopy()
	sticky.Name, sticky.Spec.ClusterIP = long("t"), address("10.96.0.83", "fd00:96::83")
	sticky.Spec.ExternalIPs, sticky.Status, sticky.Spec.Ports[0].NodePort = nil, corev1.ServiceStatus{}, 0
	sticky.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
	few := slice.DeepCopy()
	few.Name, few.Labels[discoveryv1.LabelServiceName], few.Endpoints = long("f"), long("t"), few.Endpoints[:3]
	return snapshot.Build([]*corev1.Service{svc, sticky}, []*discoveryv1.EndpointSlice{slice, few}, proxiertest.NodeView(), f)
}

// TestExtremes: every variant accepts the longest names and a thousand endpoints, Check understands
// them when read back, and connections are spread over them.
func TestExtremes(t *testing.T) {
	for _, variant := range []string{"nft", "legacy"} {
		for _, f := range []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol} {
			t.Run(variant+"/"+string(f), func(t *testing.T) {
				needRoot(t)
				useVariant(t, variant)
				w := newWorld(t, f)
				w.serveCrowd(t)
				b := newBackend(t, w.node, f, nil)
				s := extreme(f)
				if len(s.Services) != 2 || len(s.Problems) > 0 {
					t.Fatalf("the snapshot is not what it should be:\n%s", s)
				}
				proxiertest.Sync(t, b, s)
				run(t, w.node, map[corev1.IPFamily]string{corev1.IPv4Protocol: "iptables", corev1.IPv6Protocol: "ip6tables"}[f], "-N", "OTHER")
				if drift, err := b.Check(t.Context()); err != nil || drift != nil {
					t.Errorf("read back: %v, %v", drift, err)
				}
				seen := map[netip.Addr]bool{}
				for range 100 {
					to := netip.AddrPortFrom(s.Services[0].Ports[0].ClusterIP, 80)
					r := w.Connect(t, proxiertest.Pod1, corev1.ProtocolTCP, to)
					for try := 0; r.Verdict == proxiertest.Dropped && try < 10; try++ { // a busy machine is slow
						r = w.Connect(t, proxiertest.Pod1, corev1.ProtocolTCP, to)
					}
					if r.Verdict != proxiertest.Landed {
						t.Fatalf("a connection to %s: %v", to, r)
					}
					seen[r.At.Addr()] = true
				}
				if len(seen) < 70 { // of 100 that choose among 1,000 by chance, 95 differ
					t.Errorf("100 connections went to %d endpoints only", len(seen))
				}
			})
		}
	}
}

// serveCrowd answers at every address of the crowd, beyond the uplink.
func (w *world) serveCrowd(t *testing.T) {
	t.Helper()
	var listener net.Listener
	err := in(w.up, func() error {
		loopback, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		_, all, err := net.ParseCIDR(w.text("10.200.0.0/16", "fd00:200::/64"))
		if err != nil {
			return err
		}
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: loopback.Attrs().Index, Dst: all, Table: 255, Type: 2, Scope: netlink.SCOPE_HOST}); err != nil {
			return err
		}
		listener, err = net.Listen("tcp", ":9090")
		return err
	})
	if err != nil {
		t.Fatalf("serving at a thousand addresses: %v", err)
	}
	t.Cleanup(func() { listener.Close() })
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

// scripts puts programs first in PATH.
func scripts(t *testing.T, all map[string]string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range all {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// TestTooOld: an iptables-restore without locking is refused, and the error says which version is
// needed.
func TestTooOld(t *testing.T) {
	needRoot(t)
	t.Setenv("PATH", "/nonexistent")
	scripts(t, map[string]string{
		"iptables": `[ "$1" = --version ] && echo 'iptables v1.4.7' && exit 0
echo "iptables v1.4.7: option \"-w\" requires no argument" >&2; exit 2`,
		"iptables-save":    "exit 0",
		"iptables-restore": `echo "iptables-restore: unrecognized option '-w'" >&2; exit 1`,
	})
	err := in(newNS(t), func() error {
		_, err := iptables.Detect(context.Background(), corev1.IPv4Protocol, quiet())
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "1.6.2 or newer") || !strings.Contains(err.Error(), "unrecognized option") {
		t.Errorf("with iptables 1.4.7: %v", err)
	}
}

// TestProgramFailsOnce: an iptables-restore that fails once causes one error, and the next sync
// writes everything.
func TestProgramFailsOnce(t *testing.T) {
	for _, variant := range []string{"nft", "legacy"} {
		t.Run(variant, func(t *testing.T) {
			needRoot(t)
			useVariant(t, variant)
			marker := filepath.Join(t.TempDir(), "fail")
			scripts(t, map[string]string{
				"iptables":         "exec iptables-" + variant + ` "$@"`,
				"iptables-save":    "exec iptables-" + variant + `-save "$@"`,
				"iptables-restore": "[ -e " + marker + " ] && rm " + marker + " && kill -9 $$\nexec iptables-" + variant + `-restore "$@"`,
			})
			b := newBackend(t, newNS(t), corev1.IPv4Protocol, nil)
			for range 2 { // at first, and later
				if err := os.WriteFile(marker, nil, 0o600); err != nil {
					t.Fatal(err)
				}
				s := everything(t, corev1.IPv4Protocol)
				if err := b.Sync(t.Context(), s); err == nil {
					t.Error("an iptables-restore that was killed is no error")
				}
				if err := b.Sync(t.Context(), s); err != nil {
					t.Errorf("once it works again: %v", err)
				}
				if drift, err := b.Check(t.Context()); err != nil || drift != nil {
					t.Errorf("once it works again: %v, %v", drift, err)
				}
				proxiertest.Sync(t, b, &snapshot.Snapshot{Family: corev1.IPv4Protocol, Node: proxiertest.NodeView()})
			}
		})
	}
}

// TestMixIsWarnedOf: rules of Kubernetes in both variants.
func TestMixIsWarnedOf(t *testing.T) {
	needRoot(t)
	ns := newNS(t)
	warned := func() string {
		var log bytes.Buffer
		if err := in(ns, func() error {
			_, err := iptables.Detect(t.Context(), corev1.IPv4Protocol, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn})))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return log.String()
	}
	run(t, ns, "iptables-nft", "-t", "nat", "-N", "KUBE-SERVICES")
	if got := warned(); got != "" {
		t.Errorf("with rules in one variant: %s", got)
	}
	run(t, ns, "iptables-legacy", "-t", "nat", "-N", "KUBE-SERVICES")
	if got := warned(); !strings.Contains(got, "both variants of iptables") {
		t.Errorf("with rules in both variants it warns %q", got)
	}
}
