package iptables

import (
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/internal/fakekernel"
	"github.com/nodeagent/nodeagent/pkg/proxier"
	"github.com/nodeagent/nodeagent/pkg/proxier/proxiertest"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// fakeWorld walks packets through the fake kernel.
type fakeWorld struct {
	k *fakekernel.Kernel
	f corev1.IPFamily
}

func (w fakeWorld) Connect(_ testing.TB, from proxiertest.Place, protocol corev1.Protocol, to netip.AddrPort) proxiertest.Result {
	p := fakekernel.Packet{
		Proto: map[corev1.Protocol]string{corev1.ProtocolTCP: "tcp", corev1.ProtocolUDP: "udp"}[protocol],
		Src:   netip.AddrPortFrom(proxiertest.Address(from, w.f), 40000), Dst: to,
	}
	switch from {
	case proxiertest.Pod1, proxiertest.Pod2:
		p.In = proxiertest.Bridge
	case proxiertest.Client, proxiertest.Remote:
		p.In = "eth0"
	}
	out := w.k.Connect(p)
	if out.Verdict == fakekernel.Rejected {
		return proxiertest.Result{Verdict: proxiertest.Rejected}
	}
	source := p.Src.Addr()
	if out.Masqueraded {
		source = proxiertest.Address(proxiertest.Node, w.f)
	}
	for _, place := range []proxiertest.Place{proxiertest.Pod1, proxiertest.Pod2, proxiertest.Remote} {
		port := map[corev1.Protocol]uint16{corev1.ProtocolTCP: proxiertest.TCPPort, corev1.ProtocolUDP: proxiertest.UDPPort}[protocol]
		if out.Verdict == fakekernel.Accepted && out.Dst == netip.AddrPortFrom(proxiertest.Address(place, w.f), port) {
			return proxiertest.Result{Verdict: proxiertest.Landed, At: out.Dst, Source: source}
		}
	}
	return proxiertest.Result{Verdict: proxiertest.Dropped} // nobody has that address
}

// TestConformance runs the suite of all backends against the fake kernel, with
// one call in ten failing.
func TestConformance(t *testing.T) {
	for range 5 {
		proxiertest.Run(t, proxiertest.Harness{New: func(t *testing.T, f corev1.IPFamily) (proxier.Backend, proxiertest.World) {
			k := fakekernel.New(f, proxiertest.Address(proxiertest.Node, f))
			k.Faults(func() error {
				if rand.IntN(10) == 0 {
					return errors.New("one in ten")
				}
				return nil
			})
			o := testOptions(f)
			o.Local = snapshot.LocalTraffic{CIDR: proxiertest.PodRange(f)}
			b, err := New(Config{Options: o, Tool: fakeTool{k}, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
			if err != nil {
				t.Fatal(err)
			}
			return b, fakeWorld{k, f}
		}})
	}
}
