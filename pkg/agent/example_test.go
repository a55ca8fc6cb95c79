package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeagent/nodeagent/pkg/agent"
	"github.com/nodeagent/nodeagent/pkg/bootstrap"
	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/podsync"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/volumeset"
	"github.com/nodeagent/nodeagent/pkg/proxier"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/runtime/fakeruntime"
)

// greetingVolume is a volume kind of an embedder: pods ask for it by a FlexVolume of the driver
// example.com/greeting, and get a folder with a file that greets them.
type greetingVolume struct{}

func (greetingVolume) Name() string { return "example.com/greeting" }

func (g greetingVolume) Handles(v *corev1.Volume) bool {
	return v.FlexVolume != nil && v.FlexVolume.Driver == g.Name()
}

// Mount may be called again for a volume that is ready: then it changes nothing.
func (greetingVolume) Mount(_ context.Context, r volume.Request) (changed bool, err error) {
	file, text := filepath.Join(r.Target, "greeting"), "hello, "+r.Pod.Name
	if have, err := os.ReadFile(file); err == nil && string(have) == text {
		return false, nil
	}
	if err := os.MkdirAll(r.Target, 0o755); err != nil {
		return false, fmt.Errorf("making volume %q: %w", r.Volume.Name, err)
	}
	return true, os.WriteFile(file, []byte(text), 0o644)
}

func (greetingVolume) Unmount(_ context.Context, target string) error { return os.RemoveAll(target) }

// A volume kind of one's own is a volume.Plugin in Options.Volumes. Package volumetest has the
// suite that it should pass.
func ExampleOptions_volumes() {
	options := agent.Options{Volumes: []volume.Plugin{greetingVolume{}}}

	// The agent keeps the plugins in a volumeset, which picks the one that handles a volume.
	root, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(root) }()
	set, err := volumeset.New(volumeset.Config{Root: root, Plugins: options.Volumes})
	if err != nil {
		panic(err)
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web", UID: "1"},
		Spec: corev1.PodSpec{Volumes: []corev1.Volume{{
			Name: "g", VolumeSource: corev1.VolumeSource{FlexVolume: &corev1.FlexVolumeSource{Driver: "example.com/greeting"}},
		}}},
	}
	ctx := context.Background()
	fmt.Println("mount:", set.Mount(ctx, pod, "g"))
	folder, err := set.Path(pod, "g")
	if err != nil {
		panic(err)
	}
	text, err := os.ReadFile(filepath.Join(folder, "greeting"))
	fmt.Println(strings.TrimPrefix(folder, root), string(text), err)
	// Output:
	// mount: <nil>
	// /pods/1/volumes/example.com~greeting/g hello, web <nil>
}

// lineSource is a pod source of an embedder: it reads one pod a line. No API server knows its pods.
type lineSource struct {
	lines  io.Reader
	synced atomic.Bool
}

// Run emits every pod, then says that it has told all, and waits for the end.
func (s *lineSource) Run(ctx context.Context, emit func(podspec.Update)) error {
	for d := json.NewDecoder(s.lines); ; {
		var pod corev1.Pod
		if err := d.Decode(&pod); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return fmt.Errorf("reading a pod: %w", err)
		}
		emit(podspec.Update{UID: pod.UID, Pod: &pod, Static: true})
	}
	s.synced.Store(true)
	<-ctx.Done()
	return nil
}

func (s *lineSource) Synced() bool { return s.synced.Load() }

// A pod source of one's own is a podsync.Source in Options.Sources. Pods that no source knows are
// ended only when each of them has synced.
func ExampleOptions_sources() {
	source := &lineSource{lines: strings.NewReader(`{"metadata": {"name": "a", "namespace": "default", "uid": "1"}}
{"metadata": {"name": "b", "namespace": "default", "uid": "2"}}
`)}
	options := agent.Options{Sources: []podsync.Source{source}}

	// The agent runs each source and takes what it emits.
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	told := 0
	err := options.Sources[0].Run(ctx, func(u podspec.Update) {
		fmt.Println(u.UID, u.Pod.Name, "synced:", source.Synced())
		if told++; told == 2 {
			stop()
		}
	})
	fmt.Println("synced:", source.Synced(), err)
	// Output:
	// 1 a synced: false
	// 2 b synced: false
	// synced: true <nil>
}

// printedServices is a backend of an embedder: it prints what others program into a kernel.
type printedServices struct{ done chan struct{} }

// Sync gets everything that is wanted each time.
func (p printedServices) Sync(_ context.Context, s *snapshot.Snapshot) error {
	for _, service := range s.Services {
		for _, port := range service.Ports {
			fmt.Println(port.Name, port.Protocol, netip.AddrPortFrom(port.ClusterIP, port.Port))
		}
	}
	close(p.done)
	return nil
}

func (printedServices) Check(context.Context) ([]string, error) { return nil, nil }
func (printedServices) Cleanup(context.Context) error           { return nil }

// A proxy backend of one's own is made by Options.Backend, once for each IP family. Package
// proxiertest has the suite that it should pass.
func ExampleOptions_backend() {
	done := make(chan struct{})
	options := agent.Options{Backend: func(context.Context, corev1.IPFamily) (proxier.Backend, error) {
		return printedServices{done}, nil
	}}

	// The agent gives it to a proxier.Loop, which syncs whatever the Tracker knows.
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	backend, err := options.Backend(ctx, corev1.IPv4Protocol)
	if err != nil {
		panic(err)
	}
	tracker := proxier.NewTracker()
	loop, err := proxier.New(proxier.Config{
		Family: corev1.IPv4Protocol, Tracker: tracker, Backend: backend, Log: slog.New(slog.DiscardHandler), Now: time.Now,
		Health: proxier.NewHealth(time.Now, time.Minute, tracker.NodeEligible), Metrics: proxier.NewMetrics(time.Now()),
	})
	if err != nil {
		panic(err)
	}
	tracker.NodeChanged(snapshot.Node{Name: "example"}, true)
	tracker.ServiceChanged(nil, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "1"},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.96.0.10", ClusterIPs: []string{"10.96.0.10"},
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}},
		},
	})
	tracker.AddressesChanged([]netip.Addr{netip.MustParseAddr("192.0.2.7")})
	tracker.ServicesSynced()
	tracker.SlicesSynced()
	go func() { <-done; stop() }()
	fmt.Println(loop.Run(ctx))
	// Output:
	// default/web:http TCP 10.96.0.10:80
	// <nil>
}

// tellingRuntime is a runtime of an embedder: it prints which containers it starts. Here another
// one, in memory, runs them.
type tellingRuntime struct{ runtime.Runtime }

func (r tellingRuntime) StartContainer(ctx context.Context, c runtime.ContainerConfig) (runtime.Container, error) {
	started, err := r.Runtime.StartContainer(ctx, c)
	fmt.Println("started", c.Name, "attempt", c.Attempt, err)
	return started, err
}

// A runtime of one's own is a runtime.Runtime in Options.Runtime; it may have the optional powers
// of package runtime. Package runtimetest has the suite that it should pass.
func ExampleOptions_runtime() {
	host := fakeruntime.NewHost(time.Now)
	options := agent.Options{Runtime: tellingRuntime{fakeruntime.New(host)}}

	// The pods half starts what its plans name.
	ctx := context.Background()
	if err := host.AddImage("app:1", fakeruntime.Image{}); err != nil {
		panic(err)
	}
	image, err := options.Runtime.Image(ctx, "app:1")
	if err != nil {
		panic(err)
	}
	pod := runtime.PodRef{UID: "1", Namespace: "default", Name: "web"}
	sandbox, err := options.Runtime.StartSandbox(ctx, runtime.SandboxConfig{Pod: pod})
	fmt.Println("sandbox ready:", sandbox.Ready, err)
	_, err = options.Runtime.StartContainer(ctx, runtime.ContainerConfig{
		Pod: pod, Name: "app", SandboxID: sandbox.ID, Image: image, Spec: &specs.Spec{Process: &specs.Process{Args: []string{"app"}}},
	})
	if err != nil {
		panic(err)
	}
	// Output:
	// sandbox ready: true <nil>
	// started app attempt 0 <nil>
}

// An agent of one's own parts is made by New, which contacts nobody, and run by Run.
func ExampleNew() {
	folder, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(folder) }()
	loaded, identity := configured(folder)
	_, err = agent.New(agent.Options{
		Config: &loaded, Identity: identity, Log: slog.New(slog.DiscardHandler),
		Volumes: []volume.Plugin{greetingVolume{}},
	})
	fmt.Println("made:", err)
	// Output: made: <nil>
}

// configured is a configuration whose folders are all below one, and an identity that a kubeconfig
// with a token gives.
func configured(folder string) (config.Config, *bootstrap.Credentials) {
	settings := fmt.Sprintf(`apiVersion: nodeagent.dev/v1alpha1
kind: NodeAgentConfiguration
nodeName: example
paths: {rootDir: %[1]s/root, runDir: %[1]s/run, containerLogsDir: %[1]s/links, kubeconfig: %[1]s/kubeconfig}
`, folder)
	kubeconfig := `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://192.0.2.1:6443"}}]
users: [{name: u, user: {token: secret}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`
	if err := os.WriteFile(filepath.Join(folder, "kubeconfig"), []byte(kubeconfig), 0o600); err != nil {
		panic(err)
	}
	loaded, _, err := config.Resolve([]config.Source{{Name: "example", Data: []byte(settings)}}, &config.Flags{}, config.Host{Hostname: "example"})
	if err != nil {
		panic(err)
	}
	identity, err := bootstrap.LoadCredentials(loaded.Identity.Kubeconfig)
	if err != nil {
		panic(err)
	}
	return loaded, identity
}
