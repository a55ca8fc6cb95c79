package bootstrap

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/nodeagent/nodeagent/pkg/config"
)

// TestProxyModeOfTheCluster: a kube-proxy of any mode gives settings that the daemon starts with, and the step's line says
// what stands in for a mode that is not there.
func TestProxyModeOfTheCluster(t *testing.T) {
	for mode, want := range map[string]struct{ mode, line string }{
		"":                  {"", ""},
		"iptables":          {"mode: iptables", "proxy mode iptables"},
		"ipvs":              {"mode: ipvs", "proxy mode ipvs is not there yet: Services are programmed in mode iptables"},
		"nftables":          {"mode: nftables", "proxy mode nftables is not there yet: Services are programmed in mode iptables"},
		"userspace # older": {"", ""},
	} {
		m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kube-proxy"}}
		m.Data = map[string]string{"config.conf": "clusterCIDR: 10.244.0.0/16\nmode: " + mode + "\n"}
		s := readSettings(t.Context(), fake.NewClientset(m))
		text, err := s.documents()
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(string(text), "mode:"); got != (want.mode != "") || !strings.Contains(string(text), want.mode) {
			t.Errorf("mode %q becomes:\n%s", mode, text)
		}
		if !strings.Contains(s.String(), want.line) || strings.Contains(s.String(), "not there yet") != strings.Contains(want.line, "not there yet") {
			t.Errorf("mode %q: the line is %q", mode, s)
		}
		host := config.Host{Hostname: "n1"}
		c, _, err := config.Resolve([]config.Source{{Name: "00-cluster.yaml", Data: text}}, &config.Flags{}, host)
		if err != nil || c.Proxy.Mode.Programmed() != config.ProxyIPTables {
			t.Errorf("mode %q: the daemon does not start with it: %v", mode, err)
		}
	}
}
