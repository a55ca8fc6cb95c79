package netns

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	vnetns "github.com/vishvananda/netns"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/internal/golden"
	"github.com/nodeagent/nodeagent/pkg/proxier"
	"github.com/nodeagent/nodeagent/pkg/proxier/iptables"
	"github.com/nodeagent/nodeagent/pkg/proxier/iptables/rules"
	"github.com/nodeagent/nodeagent/pkg/proxier/proxiertest"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot/snapshottest"
)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// toolIn runs the programs in a namespace; fail, if not nil, is asked first.
type toolIn struct {
	ns   vnetns.NsHandle
	tool iptables.Tool
	fail func() error
}

func (t toolIn) do(f func() error) error {
	if t.fail != nil {
		if err := t.fail(); err != nil {
			return err
		}
	}
	return in(t.ns, f)
}

func (t toolIn) Save(ctx context.Context) (out []byte, err error) {
	err = t.do(func() (err error) { out, err = t.tool.Save(ctx); return err })
	return out, err
}

func (t toolIn) Restore(ctx context.Context, text []byte) error {
	return t.do(func() error { return t.tool.Restore(ctx, text) })
}

func (t toolIn) Has(ctx context.Context, j rules.Jump) (has bool, err error) {
	err = t.do(func() (err error) { has, err = t.tool.(iptables.Prober).Has(ctx, j); return err })
	return has, err
}

func (t toolIn) Generation() (generation uint64, exact bool, err error) {
	err = in(t.ns, func() (err error) { generation, exact, err = t.tool.(iptables.Generator).Generation(); return err })
	return generation, exact, err
}

func (t toolIn) Delete(ctx context.Context, j rules.Jump) error {
	return t.do(func() error { return t.tool.Delete(ctx, j) })
}

func oneInTen() error {
	if rand.IntN(10) == 0 {
		return errors.New("one in ten")
	}
	return nil
}

// useVariant puts links named iptables… to one variant's programs first in PATH.
func useVariant(t testing.TB, variant string) {
	t.Helper()
	dir := t.TempDir()
	for _, base := range []string{"iptables", "ip6tables"} {
		for _, suffix := range []string{"", "-save", "-restore"} {
			path, err := exec.LookPath(base + "-" + variant + suffix)
			if err != nil {
				t.Skipf("this machine has no %s-%s%s", base, variant, suffix)
			}
			if err := os.Symlink(path, filepath.Join(dir, base+suffix)); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	t.Setenv("XTABLES_LOCKFILE", filepath.Join(dir, "lock")) // not everybody's
}

// TestLockHolderIsNamed: the wait for the lock is bounded, and who holds it is told.
func TestLockHolderIsNamed(t *testing.T) {
	needRoot(t)
	useVariant(t, "legacy")
	ns := newNS(t)
	p := detect(t, ns, corev1.IPv4Protocol)
	f, err := os.Create(os.Getenv("XTABLES_LOCKFILE"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	err = toolIn{ns: ns, tool: p}.Restore(t.Context(), []byte("*nat\nCOMMIT\n"))
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d (", os.Getpid())) {
		t.Errorf("the holder is not named: %v", err)
	}
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("waited %v for the lock", took)
	}
}

// TestDetectTakesWhatTheKernelAccepts: a program that is there but whose
// variant the kernel refuses is passed over, as where nf_tables has no families.
func TestDetectTakesWhatTheKernelAccepts(t *testing.T) {
	needRoot(t)
	useVariant(t, "legacy")
	dir := t.TempDir()
	for name, script := range map[string]string{
		"iptables":         "echo 'iptables v1.8.9 (nf_tables)'",
		"iptables-save":    "exit 0",
		"iptables-restore": "echo 'iptables-restore: TABLE_ADD failed (Operation not supported): table mangle' >&2; exit 4",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	ns := newNS(t)
	if p := detect(t, ns, corev1.IPv4Protocol); p.Variant != "legacy" {
		t.Errorf("chose %s", p.Version())
	}
}

// TestDetectFollowsTheNode: rules of Kubernetes in one variant decide for it.
func TestDetectFollowsTheNode(t *testing.T) {
	needRoot(t)
	for _, variant := range []string{"nft", "legacy"} {
		ns := newNS(t)
		run(t, ns, "iptables-"+variant, "-t", "mangle", "-N", "KUBE-IPTABLES-HINT")
		p := detect(t, ns, corev1.IPv4Protocol)
		if want := map[string]string{"nft": "nf_tables", "legacy": "legacy"}[variant]; p.Variant != want {
			t.Errorf("with the hint in %s it chose %s", variant, p.Version())
		}
	}
}

func options(f corev1.IPFamily) rules.Options {
	return rules.Options{Family: f, MasqueradeBit: 14, Local: snapshot.LocalTraffic{CIDR: proxiertest.PodRange(f)}, RandomFully: true}
}

// detect finds the programs from inside a namespace.
func detect(t testing.TB, ns vnetns.NsHandle, f corev1.IPFamily) *iptables.Program {
	t.Helper()
	var p *iptables.Program
	err := in(ns, func() (err error) {
		p, err = iptables.Detect(context.Background(), f, quiet())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func newBackend(t testing.TB, ns vnetns.NsHandle, f corev1.IPFamily, fail func() error) *iptables.Backend {
	t.Helper()
	b, err := iptables.New(iptables.Config{Options: options(f), Tool: toolIn{ns, detect(t, ns, f), fail}, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestConformance runs the suite of all backends with real packets.
func TestConformance(t *testing.T) {
	for _, variant := range []string{"nft", "legacy"} {
		t.Run(variant, func(t *testing.T) {
			needRoot(t)
			useVariant(t, variant)
			proxiertest.Run(t, proxiertest.Harness{New: func(t *testing.T, f corev1.IPFamily) (proxier.Backend, proxiertest.World) {
				w := newWorld(t, f)
				return newBackend(t, w.node, f, oneInTen), w
			}})
		})
	}
}

// everything is a snapshot with each kind of rule in it.
func everything(t testing.TB, f corev1.IPFamily) *snapshot.Snapshot {
	t.Helper()
	text, err := os.ReadFile("testdata/everything.yaml")
	if err != nil {
		t.Fatal(err)
	}
	objects, err := snapshottest.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	s := snapshot.Build(objects.Services, objects.Slices, proxiertest.NodeView(), f)
	if len(s.Services) < 5 || len(s.Problems) > 0 {
		t.Fatalf("the snapshot is not what it should be:\n%s", s)
	}
	return s
}

// TestSaveIsUnderstood: what the kernel prints of our rules is recognized as
// ours, in every variant, so that an untouched kernel shows no drift; and what
// another program does is seen and repaired.
func TestSaveIsUnderstood(t *testing.T) {
	for _, variant := range []string{"nft", "legacy"} {
		for _, f := range []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol} {
			t.Run(variant+"/"+string(f), func(t *testing.T) {
				needRoot(t)
				useVariant(t, variant)
				ns := newNS(t)
				b := newBackend(t, ns, f, nil)
				proxiertest.Sync(t, b, everything(t, f))
				if drift, err := b.Check(t.Context()); err != nil || drift != nil {
					t.Fatalf("drift of an untouched kernel: %v, %v", drift, err)
				}
				program := map[corev1.IPFamily]string{corev1.IPv4Protocol: "iptables", corev1.IPv6Protocol: "ip6tables"}[f]
				for _, args := range [][]string{
					{"-t", "nat", "-F", "KUBE-SERVICES"},
					{"-t", "nat", "-F", "PREROUTING"},
					{"-t", "nat", "-D", "KUBE-POSTROUTING", "1"},
					{"-t", "mangle", "-X", "KUBE-PROXY-CANARY"},
					{"-t", "filter", "-F"},
				} {
					run(t, ns, program, args...)
					drift, err := b.Check(t.Context())
					if err != nil || len(drift) == 0 {
						t.Errorf("after %v: no drift, %v", args, err)
					}
					proxiertest.Sync(t, b, everything(t, f))
					if drift, err := b.Check(t.Context()); err != nil || drift != nil {
						t.Fatalf("after the repair of %v: %v, %v", args, drift, err)
					}
				}
			})
		}
	}
}

func run(t testing.TB, ns vnetns.NsHandle, name string, args ...string) string {
	t.Helper()
	var out []byte
	err := in(ns, func() (err error) {
		out, err = exec.Command(name, args...).CombinedOutput()
		return err
	})
	if err != nil {
		t.Fatalf("running %s %v: %v: %s", name, args, err, out)
	}
	return string(out)
}

// TestCleanupLeavesOthersAlone compares what iptables-save prints before and after.
func TestCleanupLeavesOthersAlone(t *testing.T) {
	for _, variant := range []string{"nft", "legacy"} {
		t.Run(variant, func(t *testing.T) {
			needRoot(t)
			useVariant(t, variant)
			ns := newNS(t)
			for _, args := range [][]string{
				{"-t", "nat", "-N", "OTHER"},
				{"-t", "nat", "-A", "OTHER", "-s", "10.0.0.0/8", "-j", "MASQUERADE"},
				{"-t", "nat", "-A", "POSTROUTING", "-j", "OTHER"},
				{"-A", "FORWARD", "-s", "10.9.9.9", "-j", "DROP"},
				{"-t", "mangle", "-N", "KUBE-KUBELET-CANARY"},
			} {
				run(t, ns, "iptables", args...)
			}
			before := ruleLines(run(t, ns, "iptables-save"))
			b := newBackend(t, ns, corev1.IPv4Protocol, nil)
			proxiertest.Sync(t, b, everything(t, corev1.IPv4Protocol))
			if err := b.Cleanup(t.Context()); err != nil {
				t.Fatal(err)
			}
			if after := ruleLines(run(t, ns, "iptables-save")); after != before {
				t.Errorf("after cleanup:\n%s", golden.LineDiff(before, after))
			}
		})
	}
}

// ruleLines are the lines of a save text without comments and counters, sorted by table.
func ruleLines(save string) string {
	var out []string
	for _, line := range strings.Split(save, "\n") {
		if strings.HasPrefix(line, ":") || strings.HasPrefix(line, "-A") {
			out = append(out, strings.Split(line, " [")[0])
		}
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// TestConnectionSurvives: a connection through a Service goes on over a new
// backend (the agent restarted), over changes, and over cleanup.
func TestConnectionSurvives(t *testing.T) {
	for _, variant := range []string{"nft", "legacy"} {
		t.Run(variant, func(t *testing.T) {
			needRoot(t)
			useVariant(t, variant)
			f := corev1.IPv4Protocol
			w := newWorld(t, f)
			// As a CNI plugin has it: while any rule uses conntrack, it works.
			run(t, w.node, "iptables", "-t", "nat", "-A", "POSTROUTING", "-s", "10.99.0.0/16", "-j", "MASQUERADE")
			b := newBackend(t, w.node, f, nil)
			proxiertest.Sync(t, b, everything(t, f))
			var conns []net.Conn
			for _, from := range []proxiertest.Place{proxiertest.Pod1, proxiertest.Node, proxiertest.Client} {
				c, err := w.dial(from, "tcp", netip.MustParseAddrPort("10.96.0.10:80"))
				for try := 0; err != nil && try < 20; try++ {
					c, err = w.dial(from, "tcp", netip.MustParseAddrPort("10.96.0.10:80"))
				}
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				conns = append(conns, c)
			}
			steps := []func() error{
				func() error { return newBackend(t, w.node, f, nil).Sync(t.Context(), everything(t, f)) },
				func() error { return b.Sync(t.Context(), snapshot.Build(nil, nil, proxiertest.NodeView(), f)) },
				func() error { return b.Sync(t.Context(), everything(t, f)) },
				func() error { return b.Cleanup(t.Context()) },
			}
			for i, step := range steps {
				if err := step(); err != nil {
					t.Fatal(err)
				}
				for _, c := range conns {
					echo(t, c, i)
				}
			}
		})
	}
}

func echo(t *testing.T, c net.Conn, step int) {
	t.Helper()
	word := "step-" + strconv.Itoa(step)
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := c.Write([]byte(word + "\n")); err != nil {
		t.Fatalf("%s: %v", word, err)
	}
	lines := bufio.NewReader(c)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("%s: %v", word, err)
		}
		if line == word+"\n" {
			return
		}
	}
}

// TestRefusedLineIsKnown: what each variant says of a bad rule leads to its line.
func TestRefusedLineIsKnown(t *testing.T) {
	for _, variant := range []string{"nft", "legacy"} {
		needRoot(t)
		useVariant(t, variant)
		ns := newNS(t)
		tool := toolIn{ns: ns, tool: detect(t, ns, corev1.IPv4Protocol)}
		for _, bad := range []string{"-A KUBE-TEST -m nonsense -j ACCEPT", "-A KUBE-TEST -p tcp --dport 99999 -j ACCEPT"} {
			err := tool.Restore(t.Context(), []byte("*nat\n:KUBE-TEST - [0:0]\n-A KUBE-TEST -j RETURN\n"+bad+"\nCOMMIT\n"))
			var refused *iptables.RefusedError
			if !errors.As(err, &refused) || refused.Line != 4 {
				t.Errorf("%s: %q: line 4 is not named: %v", variant, bad, err)
			}
		}
		if save := run(t, ns, "iptables-save"); strings.Contains(save, "KUBE-TEST") {
			t.Errorf("%s: a refused text was taken in part:\n%s", variant, save)
		}
	}
}
