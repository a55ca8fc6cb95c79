package stack

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
	"github.com/nodeagent/nodeagent/pkg/server"
	"github.com/nodeagent/nodeagent/pkg/status/summary"
)

// newStack makes a services half that watches nothing yet.
func newStack(t *testing.T, mode config.ProxyMode, log *slog.Logger, events record.EventRecorder) *Stack {
	t.Helper()
	c := &config.Config{}
	c.Proxy.Mode, c.Node.Name, c.Proxy.Rules.MasqueradeBit = mode, "n1", 14
	i, err := apiclient.NewInformers(apiclient.InformersConfig{Client: fake.NewClientset(), NodeName: "n1", Resync: time.Hour, Slices: true, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{
		Config: c, Informers: i, Addresses: func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("10.0.0.1")} },
		Registry: prometheus.NewRegistry(), Events: events, Ports: new(server.Ports), Idle: func() {}, Log: log, Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// get asks the proxy's metrics port.
func (s *Stack) get(path string) (int, string) {
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
		s := newStack(t, mode, slog.New(slog.NewTextHandler(&log, nil)), events)
		want := `nodeagent_proxy_mode{asked="` + string(mode) + `",programmed="` + string(mode.Programmed()) + `"} 1`
		if _, body := s.get("/metrics"); !strings.Contains(body, want) {
			t.Errorf("no %s in:\n%s", want, body)
		}
		if _, body := s.get("/proxyMode"); body != string(mode.Programmed()) {
			t.Errorf("/proxyMode with mode %s: %s", mode, body)
		}
		var r summary.Report
		s.Describe(&r)
		want = "proxy mode " + string(mode) + " is not implemented yet"
		fallen := mode == config.ProxyIPVS
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
