package agent

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/server"
)

// TestPagesOfKubeProxy: what dashboards, tools and the e2e suite ask on its metrics port.
func TestPagesOfKubeProxy(t *testing.T) {
	c := &config.Config{}
	c.Node.Name, c.Proxy.Mode, c.Proxy.IPTables.MasqueradeBit = "n1", config.ProxyIPTables, 14
	s := &services{config: c, page: server.MetricsHandler(prometheus.NewRegistry())}
	get := func(path string) (int, string) {
		w := httptest.NewRecorder()
		s.metricsPages().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w.Code, w.Body.String()
	}
	for path, want := range map[string]string{
		"/proxyMode": "iptables", "/healthz": "ok", "/configz": `{"kubeproxy.config.k8s.io":{"kind":"KubeProxyConfiguration","apiVersion":"kubeproxy.config.k8s.io/v1alpha1",`,
	} {
		if code, body := get(path); code != http.StatusOK || !strings.HasPrefix(body, want) {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	if code, body := get("/configz"); code != http.StatusOK || !strings.Contains(body, `"masqueradeBit":14`) || !strings.Contains(body, `"hostnameOverride":"n1"`) {
		t.Errorf("/configz: %d %s", code, body)
	}
	if code, _ := get("/debug/pprof/cmdline"); code != http.StatusNotFound {
		t.Errorf("profiles are served though enableProfiling is false: %d", code)
	}
	c.Proxy.Profiling = true
	if code, _ := get("/debug/pprof/cmdline"); code != http.StatusOK {
		t.Errorf("profiles with enableProfiling: %d", code)
	}
}
