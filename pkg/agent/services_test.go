package agent

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"

	"github.com/nodeagent/nodeagent/pkg/apiclient"
	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/node/facts"
	"github.com/nodeagent/nodeagent/pkg/podsync/podmetrics"
	"github.com/nodeagent/nodeagent/pkg/server"
	"github.com/nodeagent/nodeagent/pkg/status/report"
	"github.com/nodeagent/nodeagent/pkg/status/summary"
)

// testShared is what a services half needs of others. It watches nothing yet.
func testShared(t *testing.T, mode config.ProxyMode, log *slog.Logger) shared {
	t.Helper()
	c, client := &config.Config{}, fake.NewClientset()
	c.Proxy.Mode, c.Node.Name, c.Proxy.IPTables.MasqueradeBit = mode, "n1", 14
	w, err := apiclient.NewInformers(apiclient.InformersConfig{Client: client, NodeName: "n1", Resync: time.Hour, Slices: true, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	return shared{
		config: c, informers: w, addresses: &facts.NodeIPs{Given: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Now: time.Now},
		registry: prometheus.NewRegistry(), proxied: prometheus.NewRegistry(), events: report.NewEvents(client, "n1", log),
		ports: new(server.Ports), log: log, now: time.Now,
	}
}

func testServices(t *testing.T, s shared) *servicesHalf {
	t.Helper()
	half, err := newServicesHalf(s, nil)
	if err != nil {
		t.Fatal(err)
	}
	return half
}

// get asks the proxy's metrics port.
func (s *servicesHalf) get(path string) (int, string) {
	w := httptest.NewRecorder()
	s.pages().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Code, w.Body.String()
}

// TestAModeThatIsNotThereFallsBack: the log, an event, the metric, the status and /proxyMode say
// so, and the agent runs.
func TestAModeThatIsNotThereFallsBack(t *testing.T) {
	for _, mode := range []config.ProxyMode{config.ProxyIPTables, config.ProxyIPVS, config.ProxyNFTables} {
		var log bytes.Buffer
		events := record.NewFakeRecorder(10)
		sh := testShared(t, mode, slog.New(slog.NewTextHandler(&log, nil)))
		sh.events.EventRecorder = events
		s := testServices(t, sh)
		want := `nodeagent_proxy_mode{asked="` + string(mode) + `",programmed="iptables"} 1`
		if _, body := s.get("/metrics"); !strings.Contains(body, want) {
			t.Errorf("no %s in:\n%s", want, body)
		}
		if _, body := s.get("/proxyMode"); body != "iptables" {
			t.Errorf("/proxyMode with mode %s: %s", mode, body)
		}
		var r summary.Report
		s.describe(&r)
		want = "proxy mode " + string(mode) + " is not implemented yet"
		fallen := mode != config.ProxyIPTables
		if got := len(events.Events) == 1; got != fallen || strings.Contains(log.String(), want) != fallen || strings.Contains(strings.Join(r.Node.Warnings, "\n"), want) != fallen {
			t.Errorf("mode %s: an event: %v, status %q, log:\n%s", mode, got, r.Node.Warnings, log.String())
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
	s := testShared(t, config.ProxyIPTables, slog.New(slog.DiscardHandler))
	requests := apiclient.NewRequests()
	requests.Count("200", "GET", "h")
	s.registerBoth(requests.Collector())
	podmetrics.NewOperations(s.registry).Note("run_podsandbox", time.Second, nil)
	testServices(t, s)
	for port, r := range map[string]*prometheus.Registry{"10250": s.registry, "10249": s.proxied} {
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
