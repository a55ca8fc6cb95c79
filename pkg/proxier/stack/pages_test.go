package stack

import (
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"k8s.io/client-go/tools/record"

	"github.com/nodeagent/nodeagent/pkg/config"
)

// TestPagesOfKubeProxy: what dashboards, tools and the e2e suite ask on its metrics port.
func TestPagesOfKubeProxy(t *testing.T) {
	s := newStack(t, config.ProxyIPTables, slog.New(slog.DiscardHandler), record.NewFakeRecorder(10))
	for path, want := range map[string]string{
		"/proxyMode": "iptables", "/healthz": "ok", "/configz": `{"kubeproxy.config.k8s.io":{"kind":"KubeProxyConfiguration","apiVersion":"kubeproxy.config.k8s.io/v1alpha1",`,
	} {
		if code, body := s.get(path); code != http.StatusOK || !strings.HasPrefix(body, want) {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	if code, body := s.get("/configz"); code != http.StatusOK || !strings.Contains(body, `"masqueradeBit":14`) || !strings.Contains(body, `"hostnameOverride":"n1"`) {
		t.Errorf("/configz: %d %s", code, body)
	}
	if code, _ := s.get("/debug/pprof/cmdline"); code != http.StatusNotFound {
		t.Errorf("profiles are served though enableProfiling is false: %d", code)
	}
	s.Config.Config.Proxy.Profiling = true
	if code, _ := s.get("/debug/pprof/cmdline"); code != http.StatusOK {
		t.Errorf("profiles with enableProfiling: %d", code)
	}
}
