package netns

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/proxier/iptables"
	"github.com/nodeagent/nodeagent/pkg/proxier/proxiertest"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// TestQuickCheckSeesOthersAndNotUs: one system call tells whether anyone wrote, and a few questions
// what it took away.
func TestQuickCheckSeesOthersAndNotUs(t *testing.T) {
	for _, variant := range []string{"nft", "legacy"} {
		for _, f := range []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol} {
			t.Run(variant+"/"+string(f), func(t *testing.T) {
				needRoot(t)
				useVariant(t, variant)
				ns := newNS(t)
				b := newBackend(t, ns, f, nil)
				program := map[corev1.IPFamily]string{corev1.IPv4Protocol: "iptables", corev1.IPv6Protocol: "ip6tables"}[f]
				nothing := snapshot.Build(nil, nil, proxiertest.NodeView(), f)
				glance := func(step string, wantWritten, wantLost bool) {
					t.Helper()
					written, lost, err := b.QuickCheck(t.Context())
					if err != nil || written != wantWritten || (lost != "") != wantLost {
						t.Errorf("%s: written %v, lost %q, %v", step, written, lost, err)
					}
				}
				for _, s := range []*snapshot.Snapshot{everything(t, f), nothing, everything(t, f)} {
					proxiertest.Sync(t, b, s)
					glance("after our own sync", false, false)
				}
				run(t, ns, program, "-N", "OTHER")
				glance("after another program's chain", true, false)
				glance("the same again", false, false)
				if drift, err := b.Check(t.Context()); err != nil || drift != nil {
					t.Errorf("another program's chain is taken for drift: %v, %v", drift, err)
				}
				for _, args := range [][]string{{"-t", "mangle", "-X", "KUBE-PROXY-CANARY"}, {"-t", "nat", "-F"}, {"-F"}, {"-t", "nat", "-D", "POSTROUTING", "1"}} {
					run(t, ns, program, args...)
					glance(strings.Join(args, " "), true, true)
					proxiertest.Sync(t, b, everything(t, f))
					glance("after the repair", false, false)
				}
			})
		}
	}
}

// BenchmarkQuickCheck is what steady state costs each second.
func BenchmarkQuickCheck(b *testing.B) {
	for _, variant := range []string{"nft", "legacy"} {
		b.Run(variant, func(b *testing.B) {
			needRoot(b)
			useVariant(b, variant)
			p := detect(b, newNS(b), corev1.IPv4Protocol)
			for b.Loop() {
				if _, _, err := p.Generation(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestHangingAndMissingPrograms: bounded, and the error says which program it is.
func TestHangingAndMissingPrograms(t *testing.T) {
	needRoot(t)
	ns := newNS(t)
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	look := func() (p *iptables.Program, err error) {
		err = in(ns, func() (err error) {
			p, err = iptables.Detect(context.Background(), corev1.IPv4Protocol, quiet())
			return err
		})
		return p, err
	}
	if _, err := look(); err == nil || !strings.Contains(err.Error(), "install the package iptables") {
		t.Errorf("without iptables: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "iptables"), []byte("#!/bin/sh\nexec /bin/sleep 300\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	_, err := look()
	if err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "iptables")) || !strings.Contains(err.Error(), "hangs") {
		t.Errorf("an iptables that hangs: %v", err)
	}
	if took := time.Since(begin); took > time.Minute {
		t.Errorf("waited %v", took)
	}
}

// TestInsertedRulesAreNoDrift: what is put before the rules that are there is what was wanted, in
// the eyes of Check.
func TestInsertedRulesAreNoDrift(t *testing.T) {
	for _, variant := range []string{"nft", "legacy"} {
		needRoot(t)
		useVariant(t, variant)
		ns := newNS(t)
		b := newBackend(t, ns, corev1.IPv4Protocol, nil)
		svcs, sls := many(150)
		for _, n := range []int{120, 123, 150, 110, 111} {
			proxiertest.Sync(t, b, snapshot.Build(svcs[:n], sls, proxiertest.NodeView(), corev1.IPv4Protocol))
			if written, lost, err := b.QuickCheck(t.Context()); written || lost != "" || err != nil {
				t.Errorf("%s: after %d Services: written %v, lost %q, %v", variant, n, written, lost, err)
			}
		}
		run(t, ns, "iptables", "-N", "OTHER") // so that Check reads everything
		if drift, err := b.Check(t.Context()); err != nil || drift != nil {
			t.Errorf("%s: %v, %v", variant, drift, err)
		}
	}
}
