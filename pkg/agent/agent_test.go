package agent_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	"github.com/nodeagent/nodeagent/pkg/agent"
	"github.com/nodeagent/nodeagent/pkg/bootstrap"
	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/podsync"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/proxier"
	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/runtime/fakeruntime"
	"github.com/nodeagent/nodeagent/pkg/server"
	"github.com/nodeagent/nodeagent/pkg/sleep"
)

// ownRuntime is a fake runtime with the one power Daemon, by another name than containerd.
type ownRuntime struct{ *fakeruntime.Runtime }

func (ownRuntime) Run(ctx context.Context) error { <-ctx.Done(); return nil }
func (ownRuntime) Version() string               { return "own://1" }

// ownSource has one pod.
type ownSource struct{ emitted atomic.Bool }

func (s *ownSource) Run(ctx context.Context, emit func(podspec.Update)) error {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "own", UID: "u1"}}
	emit(podspec.Update{UID: pod.UID, Pod: pod})
	s.emitted.Store(true)
	<-ctx.Done()
	return nil
}

func (s *ownSource) Synced() bool { return s.emitted.Load() }

// settings are a configuration whose paths are in a folder of the test's own.
func settings(t *testing.T, api string) (*config.Config, *bootstrap.Credentials) {
	t.Helper()
	dir := t.TempDir()
	kubeconfig := filepath.Join(dir, "kubeconfig")
	text := `{apiVersion: v1, kind: Config, current-context: c, clusters: [{name: c, cluster: {server: "` + api + `"}}],
		users: [{name: c, user: {token: t}}], contexts: [{name: c, context: {cluster: c, user: c}}]}`
	if err := os.WriteFile(kubeconfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	identity, err := bootstrap.LoadCredentials(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	c, _, err := config.Load(&config.Flags{})
	if err != nil {
		t.Fatal(err)
	}
	c.Node.Name, c.Node.IPs = "n1", []netip.Addr{netip.MustParseAddr("10.0.0.1")}
	c.Paths.Root, c.Paths.Run, c.Paths.StaticPods = filepath.Join(dir, "root"), filepath.Join(dir, "run"), ""
	c.Paths.PodLogs, c.Paths.ContainerLogs, c.Paths.StatusSocket = filepath.Join(dir, "logs"), filepath.Join(dir, "links"), filepath.Join(dir, "s.sock")
	c.Identity.CertDir, c.Identity.ClusterCA, c.Identity.RotateClient = filepath.Join(dir, "pki"), filepath.Join(dir, "ca.crt"), false
	c.Cgroups.PerQOS, c.Server.Enabled = false, false
	c.Server.Healthz, c.Proxy.Healthz, c.Proxy.Metrics = netip.AddrPort{}, netip.AddrPort{}, netip.AddrPort{}
	return &c, identity
}

// TestPartsOfOnesOwn: an embedder's runtime and pod source take the place of containerd and stand
// beside the API server, and New touches nothing.
func TestPartsOfOnesOwn(t *testing.T) {
	klog.SetSlogLogger(slog.New(slog.DiscardHandler)) // client-go says that the API server answers nothing
	var asked atomic.Int32
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		http.Error(w, "not today", http.StatusServiceUnavailable)
	}))
	defer api.Close()
	c, identity := settings(t, api.URL)
	c.Proxy.Mode = config.ProxyOff
	c.Network.UtilChains = false
	var rt runtime.Runtime = ownRuntime{fakeruntime.New(fakeruntime.NewHost(time.Now))}
	a, err := agent.New(agent.Options{
		Config: c, Identity: identity, Log: slog.New(slog.DiscardHandler), Runtime: rt, Sources: []podsync.Source{&ownSource{}},
		Backend: func(context.Context, corev1.IPFamily) (proxier.Backend, error) {
			t.Error("a backend was made though the proxy is off")
			return nil, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(filepath.Dir(c.Paths.Root)); err != nil || len(entries) != 1 || asked.Load() != 0 {
		t.Errorf("New made %v and asked the API server %d times", entries, asked.Load())
	}
	if err := bootstrap.MakeFolders(c); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	var seen bool
	for end := time.Now().Add(10 * time.Second); !seen && time.Now().Before(end); _ = sleep.For(ctx, 50*time.Millisecond) {
		r, err := server.AskStatus(ctx, c.Paths.StatusSocket)
		seen = err == nil && len(r.Pods) == 1 && r.Pods[0].Name == "own"
	}
	if !seen {
		r, err := server.AskStatus(ctx, c.Paths.StatusSocket)
		t.Errorf("the own source's pod is not in the status %+v, %v", r, err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
