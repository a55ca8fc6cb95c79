package modes

import (
	"io"
	"log/slog"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// TestTableAgreesWithConfig: config notes which modes fall back to another one, and the table has
// a row for each mode that config accepts.
func TestTableAgreesWithConfig(t *testing.T) {
	for _, name := range []config.ProxyMode{config.ProxyIPTables, config.ProxyIPVS, config.ProxyNFTables} {
		m := Of(name)
		if m.Leaver == nil || m.Installed == nil || m.Periods == nil || m.Sysctls == nil {
			t.Errorf("the row of mode %s is incomplete: %+v", name, m)
		}
		if can := m.Program != nil; can != (name.Programmed() == name) {
			t.Errorf("mode %s can be programmed: %v, and config programs %s for it", name, can, name.Programmed())
		}
		if p := Programmed(name); p.Program == nil || p.HostCheck == nil || p.Remedy == "" || p.Preview == nil {
			t.Errorf("mode %s, which is programmed for %s, is incomplete", p.Name, name)
		}
	}
	if len(All()) != 3 {
		t.Errorf("%d rows", len(All()))
	}
}

// TestTheOthersLeave: every mode but ours.
func TestTheOthersLeave(t *testing.T) {
	c := Config{Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	for ours, want := range map[config.ProxyMode]int{config.ProxyIPTables: 2, config.ProxyNFTables: 2, config.ProxyIPVS: 2} {
		got, err := Leavers(ours, c, corev1.IPv4Protocol, nil)
		if err != nil || len(got) != want {
			t.Errorf("beside mode %s %d leave, want %d: %v", ours, len(got), want, err)
		}
	}
}

// TestPreviewHasTheOptions of the configuration.
func TestPreviewHasTheOptions(t *testing.T) {
	c := Config{UtilChains: true}
	c.Proxy.Rules.MasqueradeBit = 15
	s := snapshot.Build(nil, nil, snapshot.Node{Name: "n"}, corev1.IPv4Protocol)
	text := Of(config.ProxyIPTables).Preview(c, s)
	for _, want := range []string{"#   -t nat -A PREROUTING ", "--or-mark 0x8000", "KUBE-FIREWALL"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
}
