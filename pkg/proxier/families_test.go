package proxier_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/proxier"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// families runs Families whose backends are made by backend.
func families(t *testing.T, log io.Writer, primary corev1.IPFamily, backend func(corev1.IPFamily) error) (h *proxier.Health, stop func()) {
	t.Helper()
	tracker, l := proxier.NewTracker(), slog.New(slog.NewTextHandler(log, nil))
	h = proxier.NewHealth(time.Now, time.Minute, tracker.NodeEligible)
	h.Primary(func() corev1.IPFamily { return primary })
	s := proxier.Families{Primary: func() corev1.IPFamily { return primary }, Health: h, Log: l, Loop: func(_ context.Context, f corev1.IPFamily) (*proxier.Loop, error) {
		if err := backend(f); err != nil {
			return nil, err
		}
		return proxier.New(proxier.Config{Family: f, Tracker: tracker, Backend: &fakeBackend{}, Health: h, Metrics: proxier.NewMetrics(time.Now()), Log: l, Now: time.Now})
	}}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	return h, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// TestMissingIptablesIsLookedForAgain: the family's health says what is wrong, and once the
// program is installed its loop runs.
func TestMissingIptablesIsLookedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tries []time.Duration
		begin := time.Now()
		h, stop := families(t, io.Discard, corev1.IPv4Protocol, func(f corev1.IPFamily) error {
			if f == corev1.IPv6Protocol {
				return nil
			}
			tries = append(tries, time.Since(begin))
			if len(tries) < 4 {
				return errors.New("looking for iptables: not found")
			}
			return nil
		})
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := h.Status(); len(got) != 2 || got[0].Err == nil || !strings.Contains(got[0].Err.Error(), "not found") {
			t.Errorf("the health of the family is %+v", got)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(tries) != 4 || tries[1] != time.Second || tries[2] != 3*time.Second || tries[3] != 7*time.Second {
			t.Errorf("it was looked for after %v", tries)
		}
		stop()
	})
}

// TestEveryFamilyIsProgrammed: whatever addresses the node has. One that the machine does not
// support is logged once, does not make the node unready, and follows as soon as it is supported.
func TestEveryFamilyIsProgrammed(t *testing.T) {
	for _, primary := range []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol} {
		synctest.Test(t, func(t *testing.T) {
			var log bytes.Buffer
			can := false
			var made []corev1.IPFamily
			var mu sync.Mutex
			_, stop := families(t, &log, primary, func(f corev1.IPFamily) error {
				mu.Lock()
				defer mu.Unlock()
				if f == corev1.IPv6Protocol && !can {
					return errors.New("looking for a working ip6tables: not found")
				}
				made = append(made, f)
				return nil
			})
			time.Sleep(time.Hour)
			synctest.Wait()
			mu.Lock()
			if len(made) != 1 || made[0] != corev1.IPv4Protocol {
				t.Errorf("on a node of %s these were made: %v", primary, made)
			}
			can = true
			mu.Unlock()
			logged := strings.Count(log.String(), "not found")
			if primary := primary == corev1.IPv6Protocol; primary != (logged > 1) || logged == 0 {
				t.Errorf("primary: %v: it is logged %d times that IPv6 is not supported", primary, logged)
			}
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			mu.Lock()
			if len(made) != 2 {
				t.Errorf("after ip6tables was installed these were made: %v", made)
			}
			mu.Unlock()
			stop()
		})
	}
}

// TestMissingPodCIDRIsLogged: once, when it is missing and when it is assigned; with another
// detectLocalMode it does not matter.
func TestMissingPodCIDRIsLogged(t *testing.T) {
	for _, needed := range []bool{true, false} {
		var log bytes.Buffer
		p := &proxier.PodCIDRs{Needed: needed, Primary: func() corev1.IPFamily { return corev1.IPv4Protocol }, Log: slog.New(slog.NewTextHandler(&log, nil))}
		four, six := netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00:244::/64")
		for _, cidrs := range [][]netip.Prefix{nil, {six}, {six, four}, {four}} {
			p.NodeChanged(snapshot.Node{PodCIDRs: cidrs})
			if missing := needed && (len(cidrs) == 0 || cidrs[len(cidrs)-1] == six); (p.Problem() != "") != missing {
				t.Errorf("with %v the problem is %q", cidrs, p.Problem())
			}
		}
		warned, came := strings.Count(log.String(), "has no podCIDR"), strings.Count(log.String(), "10.244.1.0/24")
		if want := map[bool]int{true: 1, false: 0}[needed]; warned != want || came != want {
			t.Errorf("needed: %v: %d warnings, and %d times logged that it was assigned, want %d:\n%s", needed, warned, came, want, log.String())
		}
	}
}
