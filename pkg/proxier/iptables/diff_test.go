package iptables

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/internal/fakekernel"
	"github.com/nodeagent/nodeagent/pkg/service"
)

// counting keeps the last text.
type counting struct {
	fakeTool
	last *string
}

func (c counting) Restore(ctx context.Context, text []byte) error {
	*c.last = string(text)
	return c.fakeTool.Restore(ctx, text)
}

// TestNewServicesAreInserted: of many Services few are new; the chain that all share is not written again, and is not drift.
func TestNewServicesAreInserted(t *testing.T) {
	k := fakekernel.New(corev1.IPv4Protocol)
	var last string
	b, err := New(Config{Options: testOptions(corev1.IPv4Protocol), Tool: counting{fakeTool{k}, &last}, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	all := manyServices(300)
	sync := func(services []*service.Service, most int) {
		t.Helper()
		if err := b.Sync(t.Context(), &service.Snapshot{Family: corev1.IPv4Protocol, Services: services}); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(last, "\n-"); n > most {
			t.Errorf("%d rules were written, want at most %d", n, most)
		}
		if drift, err := b.Check(t.Context()); err != nil || drift != nil {
			t.Fatalf("our own rules are drift: %v, %v", drift, err)
		}
		rules := k.Chain("nat", chainServices)
		if end := rules[len(rules)-1]; len(rules) != len(services)+1 || !strings.Contains(end, "-j "+chainNodePorts) {
			t.Errorf("%d rules for %d Services, at the end %q", len(rules), len(services), end)
		}
	}
	sync(all.Services[:200], 2000)
	sync(all.Services[:203], 20)  // at the end
	sync(all.Services[:300], 500) // and more
	some := append([]*service.Service{}, all.Services[:100]...)
	sync(append(some, all.Services[110:]...), 2000) // some go: written whole
	sync(all.Services, 60)                          // in the middle
	// What another program puts behind the last rule is seen.
	if err := k.Restore("*nat\n-A KUBE-SERVICES -j ACCEPT\nCOMMIT\n"); err != nil {
		t.Fatal(err)
	}
	if drift, err := b.Check(t.Context()); err != nil || len(drift) == 0 {
		t.Errorf("a foreign rule is no drift: %v", err)
	}
}
