package agent

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/nodeagent/nodeagent/pkg/apiclient"
	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/node/facts"
	"github.com/nodeagent/nodeagent/pkg/podsync/podmetrics"
	"github.com/nodeagent/nodeagent/pkg/server"
	"github.com/nodeagent/nodeagent/pkg/status/report"
)

// TestSeriesAreOnOnePort: the proxy's series are on its own port; those that kubelet and kube-proxy
// both have are on both.
func TestSeriesAreOnOnePort(t *testing.T) {
	c, client, log := &config.Config{}, fake.NewClientset(), slog.New(slog.DiscardHandler)
	c.Proxy.Mode, c.Node.Name = config.ProxyIPTables, "n1"
	i, err := apiclient.NewInformers(apiclient.InformersConfig{Client: client, NodeName: "n1", Resync: time.Hour, Slices: true, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	s := shared{
		config: c, informers: i, addresses: &facts.NodeIPs{Now: time.Now, Log: log}, events: report.NewEvents(client, "n1", log),
		registry: prometheus.NewRegistry(), proxied: prometheus.NewRegistry(), ports: new(server.Ports), log: log, now: time.Now,
	}
	requests := apiclient.NewRequests()
	requests.Count("200", "GET", "h")
	s.registerBoth(requests.Collector())
	podmetrics.NewOperations(s.registry).Note("run_podsandbox", time.Second, nil)
	if _, err := newServicesHalf(s, nil); err != nil {
		t.Fatal(err)
	}
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
