package render

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/nodeagent/nodeagent/internal/golden"
	"github.com/nodeagent/nodeagent/pkg/config"
	iptablesrules "github.com/nodeagent/nodeagent/pkg/proxier/iptables/rules"
	"github.com/nodeagent/nodeagent/pkg/proxier/modes"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// FuzzRead: no file makes reading or rendering panic, and what is rendered names no scratch folder.
// The verbs' golden tests are the seeds.
func FuzzRead(f *testing.F) {
	golden.Each(f, "../../cmd/nodeagent/testdata/render-*.txtar", func(files map[string][]byte) {
		for name, data := range files {
			if strings.HasSuffix(name, ".yaml") {
				f.Add(data)
			}
		}
	})
	cfg, _, err := config.Resolve(nil, &config.Flags{}, config.Host{Hostname: "node", Executable: "/usr/bin/nodeagent"})
	if err != nil {
		f.Fatal(err)
	}
	cfg.Pods.ResolvConf = ""
	f.Fuzz(func(t *testing.T, text []byte) {
		var o Objects
		if err := o.Read("in", text); err != nil {
			if !strings.HasPrefix(err.Error(), "reading in") {
				t.Errorf("no place: %v", err)
			}
			return
		}
		scratch := t.TempDir()
		pods, err := Pods(context.Background(), &o, PodOptions{Config: &cfg, PodIPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Scratch: scratch})
		var out strings.Builder
		if perr := PrintPods(&out, pods); perr != nil {
			t.Error(perr)
		}
		if strings.Contains(out.String(), scratch) || err != nil && strings.Contains(err.Error(), scratch) {
			t.Errorf("the scratch folder shows: %s %v", out.String(), err)
		}
		if rules, err := Services(&o, snapshot.Node{Name: "n"}, snapshot.NewBuilder("IPv4", snapshot.NodePortAddresses{})); err == nil {
			text := modes.Of(cfg.Proxy.Mode).Preview(modes.Config{Proxy: cfg.Proxy}, rules.Snapshot)
			if _, err := iptablesrules.Parse([]byte(text)); err != nil {
				t.Errorf("the rules cannot be read back: %v\n%s", err, text)
			}
		}
	})
}

// TestParseUser: ids only, with group 0 where none is given, as the runtime resolves an image's.
func TestParseUser(t *testing.T) {
	for text, want := range map[string]string{"0": "0:0", "1000": "1000:0", "1000:7": "1000:7", "": "", "a": "", "1:b": "", "-1": "", "4294967296": "", "1:2:3": ""} {
		u, err := ParseUser(text)
		got := ""
		if err == nil {
			got = fmt.Sprintf("%d:%d", u.UID, u.GID)
		}
		if got != want {
			t.Errorf("ParseUser(%q) = %q, %v; want %q", text, got, err, want)
		}
	}
}
