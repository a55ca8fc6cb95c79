package agent

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/proxier"
	"github.com/nodeagent/nodeagent/pkg/service"
)

// idleBackend is never asked for anything: no object is ever known.
type idleBackend struct{}

func (idleBackend) Sync(context.Context, *service.Snapshot) error { return nil }
func (idleBackend) Cleanup(context.Context) error                 { return nil }

// TestMissingIptablesIsLookedForAgain: the family's health says what is wrong, and once the program is there its loop runs.
func TestMissingIptablesIsLookedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tracker := proxier.NewTracker()
		var tries []time.Duration
		begin := time.Now()
		s := &services{
			config: &config.Config{}, tracker: tracker, metrics: proxier.NewMetrics(time.Now()), log: slog.New(slog.NewTextHandler(io.Discard, nil)), now: time.Now,
			health:    proxier.NewHealth(time.Now, time.Minute, tracker.NodeEligible),
			addresses: &addresses{given: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, now: time.Now},
			backend: func(context.Context, corev1.IPFamily) (proxier.Backend, error) {
				tries = append(tries, time.Since(begin))
				if len(tries) < 4 {
					return nil, errors.New("looking for iptables: not there")
				}
				return idleBackend{}, nil
			},
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.runFamily(ctx, corev1.IPv4Protocol) }()
		time.Sleep(2 * time.Second)
		if got := s.health.Status(); len(got) != 1 || got[0].Err == nil || !strings.Contains(got[0].Err.Error(), "not there") {
			t.Errorf("the health of the family is %+v", got)
		}
		time.Sleep(time.Hour)
		if len(tries) != 4 || tries[1] != time.Second || tries[2] != 3*time.Second || tries[3] != 7*time.Second {
			t.Errorf("it was looked for after %v", tries)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
