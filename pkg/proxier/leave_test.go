package proxier_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodeagent/nodeagent/pkg/proxier"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// leaver gives one of its answers a call.
type leaver struct {
	start   time.Time
	mu      sync.Mutex
	answers []any // connections or an error
	calls   []time.Duration
}

func (l *leaver) Leave(context.Context) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls = append(l.calls, time.Since(l.start))
	answer := l.answers[0]
	l.answers = l.answers[1:]
	if err, failed := answer.(error); failed {
		return 0, err
	}
	return answer.(int), nil
}

func (l *leaver) called() []time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.calls)
}

// TestOthersLeaveAfterTheFirstSync: each is called until it waits for nothing.
func TestOthersLeaveAfterTheFirstSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		patient := &leaver{start: time.Now(), answers: []any{3, errors.New("busy"), 1, 0}}
		quick := &leaver{start: time.Now(), answers: []any{0}}
		f := beginWith(t, &fakeBackend{}, func(c *proxier.Config) { c.Others = []proxier.Leaver{patient, quick} })
		defer f.stop()
		time.Sleep(time.Minute)
		if got := patient.called(); got != nil {
			t.Errorf("before the first sync it was called at %v", got)
		}
		f.ready()
		time.Sleep(time.Hour)
		const at = time.Minute
		if got, want := patient.called(), []time.Duration{at, at + 2*time.Second, at + 6*time.Second, at + 14*time.Second}; !slices.Equal(got, want) {
			t.Errorf("called at %v, want %v", got, want)
		}
		if got := quick.called(); !slices.Equal(got, []time.Duration{at}) {
			t.Errorf("what had nothing to wait for was called at %v", got)
		}
	})
}

// waking is a backend that drains for 5 s after each change.
type waking struct {
	fakeBackend
	at time.Time
}

func (b *waking) Sync(ctx context.Context, s *snapshot.Snapshot) error {
	if now := time.Now(); b.at.IsZero() {
		b.at = now.Add(5 * time.Second)
	} else if !now.Before(b.at) {
		b.at = time.Time{}
	}
	return b.fakeBackend.Sync(ctx, s)
}

func (b *waking) WakeAt() time.Time { return b.at }

// TestABackendIsWoken: when it asks for it, although nothing changes.
func TestABackendIsWoken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := beginWith(t, &waking{}, nil)
		defer f.stop()
		f.ready()
		time.Sleep(time.Minute)
		f.tracker.ServiceChanged(nil, svc("a", 80))
		time.Sleep(time.Hour)
		if got, want := f.backend.times(), []time.Duration{0, 5 * time.Second, time.Minute, time.Minute + 5*time.Second}; !slices.Equal(got, want) {
			t.Errorf("syncs at %v, want %v", got, want)
		}
	})
}
