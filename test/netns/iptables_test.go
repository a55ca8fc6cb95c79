package netns

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	vnetns "github.com/vishvananda/netns"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/proxier"
	"github.com/nodeagent/nodeagent/pkg/proxier/iptables"
	"github.com/nodeagent/nodeagent/pkg/proxier/proxiertest"
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

func (t toolIn) Insert(ctx context.Context, j iptables.Jump) error {
	return t.do(func() error { return t.tool.Insert(ctx, j) })
}

func (t toolIn) Delete(ctx context.Context, j iptables.Jump) error {
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
}

func options(f corev1.IPFamily) iptables.Options {
	return iptables.Options{Family: f, MasqueradeBit: 14, Local: iptables.Local{CIDR: proxiertest.PodRange(f)}, RandomFully: true}
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
