package podsync_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/podsync"
	"github.com/nodeagent/nodeagent/pkg/podsync/podplan"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// world is a whole node in memory: everything a Loop touches. Each call fails with the given
// probability, by half of the failures after its effect, as calls that time out do.
type world struct {
	t    *testing.T
	rand *rand.Rand
	fail float64

	mu          sync.Mutex
	pods        map[types.UID]*runtime.Pod
	hints       chan types.UID
	down        bool // the runtime does not answer
	unlisted    bool // the folders of volumes cannot be listed
	images      map[string]bool
	pulls       int
	pulling     chan struct{}                // when not nil, a pull waits for it
	volumes     map[types.UID]map[string]int // times mounted
	dirs        map[types.UID]bool
	cgroups     map[types.UID]bool
	probes      map[string]podspec.Probes
	starts      []string // every container start: "uid/name/attempt"
	signals     []string
	hooks       []string
	resizes     []string // of containers and pods' cgroups, in order
	events      []string
	statuses    map[types.UID][]corev1.PodStatus
	held        map[types.UID][]corev1.PodStatus // told of, and not for the API
	finished    map[types.UID]corev1.PodStatus
	told        map[types.UID]corev1.PodStatus // what the prober learned of the API's view
	source      *source
	allocatable corev1.ResourceList // nil: everything fits
	admit       func(pod *corev1.Pod, others []*corev1.Pod) *podspec.Termination
	missing     string        // what an object is missing for: volume, config or image
	reading     time.Duration // how long it takes to find that it is missing
	readers     int           // who find that just now
	log         *bytes.Buffer
}

// read reads an object that is needed for something.
func (w *world) read(what string) error {
	w.mu.Lock()
	missing := w.missing == what
	if missing {
		w.readers++
	}
	w.mu.Unlock()
	if !missing {
		return nil
	}
	time.Sleep(w.reading)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.readers--
	return errors.New("not found")
}

func newWorld(t *testing.T, fail float64) *world {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return &world{
		t: t, rand: rand.New(rand.NewPCG(seed, 0)), fail: fail,
		pods: map[types.UID]*runtime.Pod{}, images: map[string]bool{"app:1": true}, volumes: map[types.UID]map[string]int{},
		dirs: map[types.UID]bool{}, cgroups: map[types.UID]bool{}, probes: map[string]podspec.Probes{},
		statuses: map[types.UID][]corev1.PodStatus{}, held: map[types.UID][]corev1.PodStatus{}, finished: map[types.UID]corev1.PodStatus{},
		told:   map[types.UID]corev1.PodStatus{},
		source: &source{updates: make(chan podspec.Update, 100)}, log: &bytes.Buffer{},
	}
}

// try runs an effect, or fails.
func (w *world) try(ctx context.Context, effect func()) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if w.down {
		return runtime.ErrUnavailable
	}
	if dice := w.rand.Float64(); dice < w.fail {
		if dice < w.fail/2 {
			effect()
		}
		return errors.New("injected failure")
	}
	effect()
	return nil
}

func (w *world) hint(uid types.UID) {
	select {
	case w.hints <- uid:
	default:
	}
}

func (w *world) pod(uid types.UID) *runtime.Pod {
	if w.pods[uid] == nil {
		w.pods[uid] = &runtime.Pod{PodRef: runtime.PodRef{UID: uid}}
	}
	return w.pods[uid]
}

// Runtime: Pods.

func (w *world) List(ctx context.Context) ([]runtime.Pod, error) {
	var list []runtime.Pod
	err := w.try(ctx, func() {
		for _, p := range w.pods {
			list = append(list, *p)
		}
	})
	return list, err
}

// Get answers from memory, as the real one does: also while the runtime is away.
func (w *world) Get(ctx context.Context, uid types.UID) (runtime.Pod, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.rand.Float64() < w.fail {
		return runtime.Pod{}, errors.New("injected failure")
	}
	found := runtime.Pod{}
	if p := w.pods[uid]; p != nil {
		found = *p
		found.Containers = slices.Clone(p.Containers)
	}
	return found, ctx.Err()
}

func (w *world) Watch(context.Context) (<-chan types.UID, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down {
		return nil, runtime.ErrUnavailable
	}
	w.hints = make(chan types.UID, 1000)
	return w.hints, nil
}

// cut breaks the runtime's event stream and lets no call through for a while.
func (w *world) cut(d time.Duration) {
	w.mu.Lock()
	close(w.hints)
	w.hints, w.down = nil, true
	w.mu.Unlock()
	time.Sleep(d)
	w.mu.Lock()
	w.down = false
	w.mu.Unlock()
}

// Runtime: Lifecycle and images.

func (w *world) StartSandbox(ctx context.Context, c runtime.SandboxConfig) (runtime.Sandbox, error) {
	var s runtime.Sandbox
	err := w.try(ctx, func() {
		p := w.pod(c.Pod.UID)
		p.PodRef = c.Pod
		if p.Sandbox != nil && p.Sandbox.Attempt != c.Attempt {
			w.t.Errorf("pod %s: a second sandbox was started", c.Pod.UID)
		}
		if p.Sandbox == nil {
			p.Sandbox = &runtime.Sandbox{
				ID: runtime.SandboxID(c.Pod.UID, c.Attempt), Attempt: c.Attempt, Ready: true, CreatedAt: time.Now(),
				IPs: []netip.Addr{netip.MustParseAddr("10.244.0.9")},
			}
		}
		s = *p.Sandbox
	})
	return s, err
}

func (w *world) StartContainer(ctx context.Context, c runtime.ContainerConfig) (runtime.Container, error) {
	time.Sleep(50 * time.Millisecond)
	var made runtime.Container
	err := w.try(ctx, func() {
		p := w.pod(c.Pod.UID)
		if i := slices.IndexFunc(p.Containers, func(x runtime.Container) bool { return x.ID == c.ID() }); i >= 0 {
			made = p.Containers[i]
			return
		}
		if p.Sandbox == nil {
			w.t.Errorf("pod %s: container %s started without a sandbox", c.Pod.UID, c.Name)
			return
		}
		w.starts = append(w.starts, fmt.Sprintf("%s/%s/%d", c.Pod.UID, c.Name, c.Attempt))
		made = runtime.Container{
			ID: c.ID(), Name: c.Name, Attempt: c.Attempt, State: runtime.Running, Image: c.ImageRef, ImageID: c.Image.ID, Recorded: runtime.Recorded{StopSignal: c.StopSignal},
			SandboxID: p.Sandbox.ID, CreatedAt: time.Now(), StartedAt: time.Now(), SpecHash: c.SpecHash, SpecResources: c.SpecResources,
		}
		p.Containers = append(p.Containers, made)
	})
	return made, err
}

func (w *world) Signal(ctx context.Context, id string, sig syscall.Signal) error {
	return w.try(ctx, func() {
		w.signals = append(w.signals, sig.String())
		go func() {
			if sig != syscall.SIGKILL {
				time.Sleep(time.Second)
			}
			w.exit(id, 128+int(sig))
		}()
	})
}

// exit ends a running container.
func (w *world) exit(id string, code int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for uid, p := range w.pods {
		for i := range p.Containers {
			c := &p.Containers[i]
			stubborn := strings.HasPrefix(c.Name, "stubborn") && code == 128+int(syscall.SIGTERM)
			if c.ID == id && c.State == runtime.Running && !stubborn {
				c.State, c.ExitCode, c.FinishedAt = runtime.Exited, code, time.Now()
				w.hint(uid)
			}
		}
	}
}

func (w *world) RemoveContainer(ctx context.Context, id string) error {
	return w.try(ctx, func() {
		for _, p := range w.pods {
			p.Containers = slices.DeleteFunc(p.Containers, func(c runtime.Container) bool { return c.ID == id })
		}
	})
}

func (w *world) RemoveSandbox(ctx context.Context, uid types.UID) error {
	return w.try(ctx, func() {
		if p := w.pods[uid]; p != nil {
			p.Sandbox = nil
			if p.Empty() {
				delete(w.pods, uid)
			}
		}
	})
}

func (w *world) UpdateResources(ctx context.Context, id, sizes string, r *specs.LinuxResources) error {
	return w.try(ctx, func() {
		for uid, p := range w.pods {
			for i := range p.Containers {
				if c := &p.Containers[i]; c.ID == id && c.State == runtime.Running {
					c.SpecResources, c.Resources = sizes, r
					w.resizes = append(w.resizes, "container "+c.Name+" "+sizes)
					w.hint(uid)
				}
			}
		}
	})
}

func (w *world) Image(ctx context.Context, ref string) (runtime.Image, error) {
	found := false
	name := strings.TrimPrefix(ref, "id-of-")
	err := w.try(ctx, func() { found = w.images[name] })
	if err == nil && !found {
		err = runtime.ErrNotFound
	}
	return runtime.Image{ID: "id-of-" + name, Size: 42}, err
}

func (w *world) Pull(ctx context.Context, ref string, _ []runtime.Credentials) (runtime.Image, error) {
	if err := w.read("image"); err != nil {
		return runtime.Image{}, err
	}
	if w.pulling != nil {
		select {
		case <-w.pulling:
		case <-ctx.Done():
			return runtime.Image{}, ctx.Err()
		}
	}
	err := w.try(ctx, func() { w.images[ref] = true; w.pulls++ })
	return runtime.Image{ID: "id-of-" + ref, Size: 42}, err
}

func (w *world) Credentials(context.Context, *corev1.Pod, string) ([]runtime.Credentials, []string) {
	return nil, nil
}

// Builder.

func (w *world) Sandbox(_ context.Context, pod *corev1.Pod, attempt int) (runtime.SandboxConfig, error) {
	return runtime.SandboxConfig{Pod: ref(pod), Attempt: attempt}, nil
}

func (w *world) Container(_ context.Context, r runtime.ContainerRequest) (runtime.ContainerConfig, error) {
	if err := w.read("config"); err != nil {
		return runtime.ContainerConfig{}, err
	}
	hash, sizes := "", ""
	for i := range r.Pod.Spec.Containers {
		if c := &r.Pod.Spec.Containers[i]; c.Name == r.Name {
			hash, sizes = podspec.SpecHash(c), podspec.ResourcesOf(r.Pod, c).String()
		}
	}
	return runtime.ContainerConfig{
		Pod: ref(r.Pod), Name: r.Name, Attempt: r.Attempt, Image: r.Image, ImageRef: "app:1", Spec: &specs.Spec{}, SpecHash: hash, SpecResources: sizes,
	}, nil
}

func (w *world) Resources(*corev1.Pod, string) (*specs.LinuxResources, error) {
	return &specs.LinuxResources{}, nil
}

func ref(pod *corev1.Pod) runtime.PodRef {
	return runtime.PodRef{UID: pod.UID, Namespace: pod.Namespace, Name: pod.Name}
}

// host, groups and vols are the roles whose method names meet others.
type (
	host   struct{ *world }
	groups struct{ *world }
	vols   struct{ *world }
)

func (h host) Prepare(ctx context.Context, pod *corev1.Pod) error {
	return h.try(ctx, func() { h.dirs[pod.UID] = true })
}

func (h host) HasFolder(uid types.UID) (bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.dirs[uid], nil
}

func (h host) Cleanup(ctx context.Context, pod runtime.PodRef) error {
	return h.try(ctx, func() { delete(h.dirs, pod.UID); delete(h.cgroups, pod.UID) })
}

func (g groups) EnsurePod(ctx context.Context, pod *corev1.Pod) error {
	return g.try(ctx, func() { g.cgroups[pod.UID] = true })
}

func (g groups) ResizePod(ctx context.Context, pod *corev1.Pod, widen bool) error {
	return g.try(ctx, func() {
		g.resizes = append(g.resizes, map[bool]string{true: "widen ", false: "narrow "}[widen]+string(pod.UID))
	})
}

func (g groups) RemovePod(ctx context.Context, uid types.UID) error {
	return g.try(ctx, func() { delete(g.cgroups, uid) })
}

func (g groups) Pods() ([]types.UID, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Collect(maps.Keys(g.cgroups)), nil
}

func (h host) Leftovers(context.Context) ([]types.UID, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var uids []types.UID
	for uid := range h.dirs {
		uids = append(uids, uid)
	}
	return uids, nil
}

func (v vols) Mount(ctx context.Context, pod *corev1.Pod, name string) error {
	if err := v.read("volume"); err != nil {
		return err
	}
	return v.try(ctx, func() {
		if v.volumes[pod.UID] == nil {
			v.volumes[pod.UID] = map[string]int{}
		}
		v.volumes[pod.UID][name]++
	})
}

func (v vols) Refreshable(pod *corev1.Pod) []string {
	var names []string
	for _, x := range pod.Spec.Volumes {
		names = append(names, x.Name)
	}
	return names
}

func (v vols) Mounted(_ context.Context, uid types.UID) (bool, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.unlisted {
		return false, syscall.ENOTDIR
	}
	return len(v.volumes[uid]) > 0, nil
}

func (w *world) setUnlisted(unlisted bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.unlisted = unlisted
}

func (v vols) Unmount(ctx context.Context, uid types.UID) error {
	return v.try(ctx, func() { delete(v.volumes, uid) })
}

// Hooks, Prober, Messages, Events, StatusSink.

func (w *world) Run(ctx context.Context, c *corev1.Container, _, host string, kind podspec.HookKind) error {
	return w.try(ctx, func() { w.hooks = append(w.hooks, fmt.Sprintf("%s %s %s", kind, c.Name, host)) })
}

func (w *world) Sync(pod *corev1.Pod, _ runtime.Pod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told[pod.UID] = pod.Status
}

func (w *world) Results(id string) podspec.Probes {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.probes[id]
}

func (w *world) Message(_ context.Context, c runtime.Container, _ corev1.TerminationMessagePolicy, limit int) string {
	return fmt.Sprintf("last words of %s, at most %d", c.Name, limit)
}

func (w *world) Event(object kruntime.Object, eventType, reason, message string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	ref, ok := object.(*corev1.ObjectReference)
	if !ok || ref.UID == "" {
		w.t.Errorf("event %s about %v, which is no reference to a pod", reason, object)
	}
	w.events = append(w.events, eventType+" "+reason+" "+message)
}

func (w *world) Put(object *corev1.Pod, s corev1.PodStatus) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.statuses[object.UID] = append(w.statuses[object.UID], s)
}

func (w *world) Hold(object *corev1.Pod, s corev1.PodStatus) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held[object.UID] = append(w.held[object.UID], s)
}

func (w *world) Finish(object *corev1.Pod, s corev1.PodStatus) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.finished[object.UID] = s
}

func (w *world) Forget(types.UID) {}

// source is driven by the test.
type source struct {
	updates chan podspec.Update
	mu      sync.Mutex
	synced  bool
}

func (s *source) Run(ctx context.Context, emit func(podspec.Update)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case u := <-s.updates:
			emit(u)
		}
	}
}

func (s *source) Synced() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.synced
}

func (s *source) sync() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.synced = true
}

// start runs a new agent on the world; the returned function stops it, leaving the world as it is.
func (w *world) start() (*podsync.Loop, func()) {
	w.t.Helper()
	puller, err := podsync.NewPuller(podsync.PullerConfig{Images: w, Secrets: w, Events: w, Parallel: 1, Now: time.Now})
	if err != nil {
		w.t.Fatal(err)
	}
	claims := map[podplan.Kind]podsync.Claims{
		podplan.Volume: podsync.VolumeClaims{Volumes: vols{w}}, podplan.Cgroup: podsync.CgroupClaims{Cgroups: groups{w}},
		podplan.Folder: podsync.FolderClaims{Folders: host{w}},
	}
	executor, err := podsync.NewExecutor(podsync.ExecutorConfig{
		Runtime: w, Images: w, Puller: puller, Build: w, Claims: claims, Cgroups: groups{w}, Hooks: w, Events: w,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	loop, err := podsync.New(podsync.Config{
		Sources: []podsync.Source{w.source}, Sink: w, Pods: w, Executor: executor, Host: host{w}, Volumes: vols{w}, Prober: w, Events: w,
		Messages: w, Admit: w.admit, Allocatable: func() corev1.ResourceList { return w.allocatable }, HostIPs: func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("192.0.2.1")} },
		Now: time.Now, Log: slog.New(slog.NewTextHandler(w.log, nil)),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- loop.Run(ctx) }()
	return loop, func() {
		w.t.Helper()
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("Run returned %v", err)
		}
	}
}

// elapse lets the world go on for a while.
func elapse(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// newest is the newest status that was reported for a pod.
func (w *world) newest(uid types.UID) corev1.PodStatus {
	w.mu.Lock()
	defer w.mu.Unlock()
	if list := w.statuses[uid]; len(list) > 0 {
		return list[len(list)-1]
	}
	return corev1.PodStatus{}
}

// left is everything that the host has of any pod.
func (w *world) left() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := ""
	for uid, p := range w.pods {
		if !p.Empty() {
			text += fmt.Sprintf("pod %s: sandbox %v, %d containers\n", uid, p.Sandbox != nil, len(p.Containers))
		}
	}
	for uid := range w.volumes {
		text += fmt.Sprintf("volumes of %s\n", uid)
	}
	for uid := range w.dirs {
		text += fmt.Sprintf("folder of %s\n", uid)
	}
	for uid := range w.cgroups {
		text += fmt.Sprintf("cgroup of %s\n", uid)
	}
	return text
}

func (w *world) count(list *[]string, prefix string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, e := range *list {
		if strings.HasPrefix(e, prefix) {
			n++
		}
	}
	return n
}

// testPod is a pod with one container, one volume and a grace of 30 s.
func testPod(uid string, change ...func(*corev1.Pod)) *corev1.Pod {
	grace := int64(30)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid), Namespace: "default", Name: "pod-" + uid},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyAlways, TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{Name: "app", Image: "app:1", ImagePullPolicy: corev1.PullIfNotPresent}},
			Volumes:    []corev1.Volume{{Name: "data"}},
		},
	}
	for _, f := range change {
		f(pod)
	}
	return pod
}

func (w *world) add(pod *corev1.Pod) { w.source.updates <- podspec.Update{UID: pod.UID, Pod: pod} }

// remove asks for a pod's end, as the API server does.
func (w *world) remove(pod *corev1.Pod, grace int64) *corev1.Pod {
	pod = pod.DeepCopy()
	now := metav1.Now()
	pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &now, &grace
	w.add(pod)
	return pod
}

func (w *world) gone(pod *corev1.Pod) {
	w.source.updates <- podspec.Update{UID: pod.UID, Pod: pod, Gone: true}
}

// dice is a number below n.
func (w *world) dice(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rand.IntN(n)
}
