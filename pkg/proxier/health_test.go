package proxier_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/proxier"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// page is the body of /healthz and /livez.
type page struct {
	LastUpdated time.Time `json:"lastUpdated"`
	Healthy     bool      `json:"healthy"`
	Status      map[string]struct {
		LastUpdated time.Time `json:"lastUpdated"`
		Healthy     bool      `json:"healthy"`
	} `json:"status"`
}

func ask(t *testing.T, h *proxier.Health, path string) (int, page) {
	t.Helper()
	w := httptest.NewRecorder()
	h.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	var p page
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		t.Errorf("%s answers %s: %v", path, w.Body, err)
	}
	return w.Code, p
}

// TestHealthAfterAFailedRepair: rules that others removed and that cannot be written again are no
// state to send clients to, however the loss was seen, and whether or not anything has changed in
// the API.
func TestHealthAfterAFailedRepair(t *testing.T) {
	for name, lose := range map[string]func(*quick){
		"drift":       func(b *quick) { b.drift = []string{"flushed"} },
		"quick check": func(b *quick) { b.written, b.lost = true, "the canary" },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &quick{}
				f := begin(t, b)
				defer f.stop()
				f.ready()
				time.Sleep(10 * time.Minute)
				written := f.health.Status()[0].Synced
				lost := time.Now()
				b.mu.Lock()
				b.fail = func() error { return errors.New("iptables-restore refused") }
				lose(b)
				b.mu.Unlock()
				time.Sleep(50 * time.Second)
				if code, _ := ask(t, f.health, "/healthz"); code != http.StatusOK {
					t.Errorf("%d while the repair is being tried, for no longer than twice the sync period", code)
				}
				time.Sleep(2 * time.Minute)
				for _, path := range []string{"/healthz", "/livez"} {
					code, p := ask(t, f.health, path)
					if code != http.StatusServiceUnavailable || p.Healthy || p.Status["IPv4"].Healthy {
						t.Errorf("%s %s after the loss: %d, %+v", path, time.Since(lost), code, p)
					}
					if !p.LastUpdated.Equal(written) || !p.Status["IPv4"].LastUpdated.Equal(written) {
						t.Errorf("%s says lastUpdated %s, the rules are of %s: %+v", path, p.LastUpdated, written, p)
					}
				}
				b.mu.Lock()
				b.fail = nil
				b.mu.Unlock()
				time.Sleep(time.Minute)
				if code, p := ask(t, f.health, "/healthz"); code != http.StatusOK || !p.Healthy || !p.Status["IPv4"].Healthy {
					t.Errorf("after a repair: %d, %+v", code, p)
				}
			})
		})
	}
}

// TestHealthOfAFamilyThatTheMachineLacks: it is reported and does not count, unless it is the
// primary one; a family that was programmed once counts from then on.
func TestHealthOfAFamilyThatTheMachineLacks(t *testing.T) {
	for _, primary := range []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol} {
		synctest.Test(t, func(t *testing.T) {
			b := &fakeBackend{}
			f := begin(t, b) // IPv4
			defer f.stop()
			f.health.Primary(func() corev1.IPFamily { return primary })
			f.ready()
			synctest.Wait()
			f.health.Failed(corev1.IPv6Protocol, errors.New("ip6tables is not installed"))
			code, _ := ask(t, f.health, "/healthz")
			if want := primary == corev1.IPv4Protocol; (code == http.StatusOK) != want {
				t.Errorf("primary %s: %d though IPv6 cannot be programmed, IPv4 is", primary, code)
			}
			if s := f.health.Status(); len(s) != 2 || s[1].Err == nil || s[1].Healthy {
				t.Errorf("the status is %+v", s)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		b := &fakeBackend{}
		f := begin(t, b)
		defer f.stop()
		primary := corev1.IPv6Protocol
		f.health.Primary(func() corev1.IPFamily { return primary })
		f.ready()
		synctest.Wait()
		if code, _ := ask(t, f.health, "/healthz"); code == http.StatusOK {
			t.Error("healthy before anything is known of the primary family")
		}
		f.health.Failed(corev1.IPv6Protocol, errors.New("no"))
		primary = corev1.IPv4Protocol // the node's address has become another
		if code, _ := ask(t, f.health, "/healthz"); code != http.StatusOK {
			t.Error("the primary family is programmed, the other has never been")
		}
		primary = ""
		b.mu.Lock()
		b.fail = func() error { return errors.New("no") }
		b.mu.Unlock()
		f.tracker.ServiceChanged(nil, svc("a", 80))
		time.Sleep(3 * time.Minute)
		if code, p := ask(t, f.health, "/healthz"); code == http.StatusOK || p.Status["IPv4"].Healthy || len(p.Status) != 1 {
			t.Errorf("a family that was programmed once and is stuck: %d %+v", code, p)
		}
	})
}

// TestRepairsCountAsFullSyncs: what was written whole is measured as such.
func TestRepairsCountAsFullSyncs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &fakeBackend{}
		f := begin(t, b)
		defer f.stop()
		registry := prometheus.NewRegistry()
		registry.MustRegister(f.metrics.Collectors()...)
		want := func(when string, full, partial uint64) {
			t.Helper()
			got := map[string]uint64{}
			families, err := registry.Gather()
			if err != nil {
				t.Fatal(err)
			}
			for _, family := range families {
				if kind, ok := strings.CutPrefix(family.GetName(), "kubeproxy_sync_"); ok && strings.HasSuffix(kind, "_proxy_rules_duration_seconds") {
					got[kind] = family.GetMetric()[0].GetHistogram().GetSampleCount()
				}
			}
			if f, p := got["full_proxy_rules_duration_seconds"], got["partial_proxy_rules_duration_seconds"]; f != full || p != partial {
				t.Errorf("%s: %d full and %d partial syncs, want %d and %d", when, f, p, full, partial)
			}
		}
		f.ready()
		time.Sleep(time.Second)
		f.tracker.ServiceChanged(nil, svc("a", 80))
		time.Sleep(time.Second)
		want("a change", 1, 1)
		b.mu.Lock()
		b.drift = []string{"chain KUBE-SERVICES has other rules"}
		b.mu.Unlock()
		time.Sleep(time.Minute)
		want("what others changed", 2, 1)
		f.tracker.NodeChanged(snapshot.Node{Name: "me", Zone: "z"}, true)
		time.Sleep(time.Minute)
		want("a change after it", 2, 2)
		failed := false
		b.mu.Lock()
		b.fail = func() error {
			defer func() { failed = true }()
			if failed {
				return nil
			}
			return errors.New("no")
		}
		b.mu.Unlock()
		f.tracker.ServiceChanged(nil, svc("a", 81))
		time.Sleep(time.Minute)
		want("a failure", 3, 2)
	})
}
