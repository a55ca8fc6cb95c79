package agent

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"

	"github.com/nodeagent/nodeagent/pkg/apiclient"
	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/node/facts"
	"github.com/nodeagent/nodeagent/pkg/podsync/podmetrics"
	"github.com/nodeagent/nodeagent/pkg/proxier"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
	"github.com/nodeagent/nodeagent/pkg/server"
	"github.com/nodeagent/nodeagent/pkg/status/report"
)

// idleBackend is never asked for anything: no object is ever known.
type idleBackend struct{}

func (idleBackend) Sync(context.Context, *snapshot.Snapshot) error { return nil }
func (idleBackend) Cleanup(context.Context) error                  { return nil }

// TestMissingIptablesIsLookedForAgain: the family's health says what is wrong, and once the
// program is there its loop runs.
func TestMissingIptablesIsLookedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tracker := proxier.NewTracker()
		var tries []time.Duration
		begin := time.Now()
		s := &services{
			config: &config.Config{}, tracker: tracker, metrics: proxier.NewMetrics(time.Now()), log: slog.New(slog.NewTextHandler(io.Discard, nil)), now: time.Now,
			health:    proxier.NewHealth(time.Now, time.Minute, tracker.NodeEligible),
			addresses: &facts.NodeIPs{Given: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Now: time.Now},
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

// TestEveryFamilyIsProgrammed: whatever addresses the node has. One that the machine cannot is
// told once, does not make the node unready, and follows as soon as the machine can.
func TestEveryFamilyIsProgrammed(t *testing.T) {
	for _, node := range []string{"10.0.0.1", "2001:db8::1"} {
		synctest.Test(t, func(t *testing.T) {
			var log bytes.Buffer
			can := false
			var made []corev1.IPFamily
			var mu sync.Mutex
			s := &services{
				config: &config.Config{}, tracker: proxier.NewTracker(), metrics: proxier.NewMetrics(time.Now()), now: time.Now,
				log:       slog.New(slog.NewTextHandler(&log, nil)),
				addresses: &facts.NodeIPs{Given: []netip.Addr{netip.MustParseAddr(node)}, Now: time.Now},
				backend: func(_ context.Context, f corev1.IPFamily) (proxier.Backend, error) {
					mu.Lock()
					defer mu.Unlock()
					if f == corev1.IPv6Protocol && !can {
						return nil, errors.New("looking for a working ip6tables: not there")
					}
					made = append(made, f)
					return idleBackend{}, nil
				},
			}
			s.health = proxier.NewHealth(time.Now, time.Minute, s.tracker.NodeEligible)
			s.health.Primary(s.primary)
			ctx, cancel := context.WithCancel(t.Context())
			g, ctx := errgroup.WithContext(ctx)
			s.runFamilies(ctx, g)
			time.Sleep(time.Hour)
			mu.Lock()
			if len(made) != 1 || made[0] != corev1.IPv4Protocol {
				t.Errorf("on a node with address %s these were made: %v", node, made)
			}
			can = true
			mu.Unlock()
			told := strings.Count(log.String(), "not there")
			if primary := strings.Contains(node, ":"); primary != (told > 1) || told == 0 {
				t.Errorf("on a node with address %s it is told %d times that IPv6 cannot be", node, told)
			}
			time.Sleep(2 * time.Minute)
			mu.Lock()
			if len(made) != 2 {
				t.Errorf("after ip6tables was installed these were made: %v", made)
			}
			mu.Unlock()
			cancel()
			if err := g.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestMissingPodCIDRIsTold: once, when it is missing and when it has come; with another way to
// tell local traffic it does not matter.
func TestMissingPodCIDRIsTold(t *testing.T) {
	for _, mode := range []string{"NodeCIDR", "ClusterCIDR"} {
		var log bytes.Buffer
		s := &services{
			config: &config.Config{}, log: slog.New(slog.NewTextHandler(&log, nil)),
			addresses: &facts.NodeIPs{Given: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Now: time.Now},
		}
		s.config.Proxy.DetectLocal = mode
		for _, cidrs := range [][]string{nil, {"fd00:244::/64"}, {"fd00:244::/64", "10.244.1.0/24"}, {"10.244.1.0/24"}} {
			n := &corev1.Node{}
			n.Spec.PodCIDRs = cidrs
			s.tellPodCIDR(n)
		}
		warned, came := strings.Count(log.String(), "has no podCIDR"), strings.Count(log.String(), "10.244.1.0/24")
		if want := map[string]int{"NodeCIDR": 1, "ClusterCIDR": 0}[mode]; warned != want || came != want {
			t.Errorf("detectLocalMode %s: %d warnings, and %d times told that it has come, want %d:\n%s", mode, warned, came, want, log.String())
		}
	}
}

// TestAModeThatIsNotThereFallsBack: it is told in the log, an event, the metric, the status and on
// /proxyMode, and the agent runs.
func TestAModeThatIsNotThereFallsBack(t *testing.T) {
	for _, mode := range []config.ProxyMode{config.ProxyIPTables, config.ProxyIPVS, config.ProxyNFTables} {
		var log bytes.Buffer
		s := &services{config: &config.Config{}, log: slog.New(slog.NewTextHandler(&log, nil)), page: http.NotFoundHandler()}
		s.config.Proxy.Mode, s.config.Node.Name = mode, "n1"
		events := record.NewFakeRecorder(10)
		s.tellFallback(events)
		registry := prometheus.NewRegistry()
		registry.MustRegister(s.modes())
		page := httptest.NewRecorder()
		server.MetricsHandler(registry).ServeHTTP(page, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		if want := `nodeagent_proxy_mode{asked="` + string(mode) + `",programmed="iptables"} 1`; !strings.Contains(page.Body.String(), want) {
			t.Errorf("no %s in:\n%s", want, page.Body)
		}
		page = httptest.NewRecorder()
		s.metricsPages().ServeHTTP(page, httptest.NewRequest(http.MethodGet, "/proxyMode", nil))
		if page.Body.String() != "iptables" {
			t.Errorf("/proxyMode with mode %s: %s", mode, page.Body)
		}
		want := "proxy mode " + string(mode) + " is not there yet"
		fallen := mode != config.ProxyIPTables
		if got := len(events.Events) == 1; got != fallen || strings.Contains(log.String(), want) != fallen || strings.Contains(s.fallback(), want) != fallen {
			t.Errorf("mode %s: an event: %v, status %q, log:\n%s", mode, got, s.fallback(), log.String())
		}
		if fallen {
			if e := <-events.Events; !strings.HasPrefix(e, "Warning ProxyModeFallback "+want) {
				t.Errorf("mode %s: event %q", mode, e)
			}
		}
	}
}

// TestSeriesAreOnOnePort: those of the proxy are on its own port, what both of kubelet and
// kube-proxy have is on both.
func TestSeriesAreOnOnePort(t *testing.T) {
	log, client := slog.New(slog.DiscardHandler), fake.NewClientset()
	a := &Agent{
		options: Options{Now: time.Now}, config: &config.Config{}, log: log, registry: prometheus.NewRegistry(), proxied: prometheus.NewRegistry(),
		ports: new(server.Ports), addresses: &facts.NodeIPs{Given: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Now: time.Now}, events: report.NewEvents(client, "n1", log),
	}
	requests := apiclient.NewRequests()
	requests.Count("200", "GET", "h")
	registerBoth(a.registry, a.proxied, requests.Collector())
	podmetrics.NewOperations(a.registry).Note("run_podsandbox", time.Second, nil)
	var err error
	if a.watched, err = apiclient.NewInformers(apiclient.InformersConfig{Client: client, NodeName: "n1", Resync: time.Hour, Slices: true, Log: log}); err != nil {
		t.Fatal(err)
	}
	if a.services, err = newServices(a); err != nil {
		t.Fatal(err)
	}
	for port, r := range map[string]*prometheus.Registry{"10250": a.registry, "10249": a.proxied} {
		families, err := r.Gather()
		if err != nil {
			t.Fatal(err)
		}
		count := map[string]int{}
		for _, f := range families {
			kind, _, _ := strings.Cut(f.GetName(), "_")
			count[kind]++
		}
		if own, other := count["kubelet"], count["kubeproxy"]; count["rest"] != 1 || (port == "10250") != (own > 0) || (port == "10249") != (other > 0) {
			t.Errorf("on port %s there are series by their first word: %v", port, count)
		}
	}
}
