package proxier_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeagent/nodeagent/internal/fakekernel"
	"github.com/nodeagent/nodeagent/pkg/proxier"
	"github.com/nodeagent/nodeagent/pkg/proxier/iptables"
	"github.com/nodeagent/nodeagent/pkg/proxier/iptables/rules"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// fakeBackend keeps what it was given; fail is asked first, took is how long a
// sync lasts.
type fakeBackend struct {
	mu    sync.Mutex
	snaps []*snapshot.Snapshot
	at    []time.Duration // since start
	busy  bool
	start time.Time
	fail  func() error
	took  time.Duration
	drift []string
}

func (b *fakeBackend) Sync(_ context.Context, s *snapshot.Snapshot) error {
	b.mu.Lock()
	if b.busy {
		panic("two syncs at once")
	}
	b.busy = true
	b.at = append(b.at, time.Since(b.start))
	b.mu.Unlock()
	time.Sleep(b.took)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.busy = false
	if b.fail != nil {
		if err := b.fail(); err != nil {
			return err
		}
	}
	b.snaps = append(b.snaps, s)
	return nil
}

func (b *fakeBackend) Cleanup(context.Context) error { return nil }

func (b *fakeBackend) Check(context.Context) ([]string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := b.drift
	b.drift = nil
	return out, nil
}

func (b *fakeBackend) times() []time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.at)
}

func (b *fakeBackend) taken() []*snapshot.Snapshot {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.snaps)
}

type fixture struct {
	backend *fakeBackend
	tracker *proxier.Tracker
	health  *proxier.Health
	log     *bytes.Buffer
	metrics *proxier.Metrics
	idle    atomic.Int32 // calls of Idle
	stop    func()
}

// fake is a backend that is a fakeBackend, or has one in it.
type fake interface {
	proxier.Backend
	base() *fakeBackend
}

func (b *fakeBackend) base() *fakeBackend { return b }

// begin runs a loop in a synctest bubble.
func begin(t *testing.T, backend fake, observers ...proxier.Observer) *fixture {
	t.Helper()
	return beginWith(t, backend, func(c *proxier.Config) { c.Observers = observers })
}

// beginWith runs a loop whose configuration is changed first, unless change is nil.
func beginWith(t *testing.T, backend fake, change func(*proxier.Config)) *fixture {
	t.Helper()
	b := backend.base()
	b.start = time.Now()
	f := &fixture{backend: b, tracker: proxier.NewTracker(), metrics: proxier.NewMetrics(time.Now()), log: &bytes.Buffer{}}
	f.health = proxier.NewHealth(time.Now, time.Minute, f.tracker.NodeEligible)
	c := proxier.Config{
		Family: corev1.IPv4Protocol, Tracker: f.tracker, Backend: backend,
		MinInterval: time.Second, CheckInterval: 30 * time.Second, Idle: func() { f.idle.Add(1) }, Health: f.health, Metrics: f.metrics,
		Log: slog.New(slog.NewTextHandler(f.log, nil)), Now: time.Now,
	}
	if change != nil {
		change(&c)
	}
	l, err := proxier.New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	f.stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run returned %v after cancellation", err)
		}
	}
	return f
}

func (f *fixture) ready() {
	f.tracker.ServicesSynced()
	f.tracker.SlicesSynced()
	f.tracker.AddressesChanged(nil)
	synctest.Wait() // or the loop, not having looked yet, would take these for two changes
	f.tracker.NodeChanged(snapshot.Node{Name: "me"}, true)
}

func svc(name string, port int32) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name},
		Spec:       corev1.ServiceSpec{ClusterIP: "10.96.0.1", Ports: []corev1.ServicePort{{Port: port}}},
	}
}

func TestNothingHappensBeforeEverythingIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := begin(t, &fakeBackend{})
		defer f.stop()
		f.tracker.ServiceChanged(nil, svc("a", 80))
		f.tracker.ServicesSynced()
		f.tracker.NodeChanged(snapshot.Node{Name: "me"}, true)
		f.tracker.AddressesChanged(nil)
		time.Sleep(time.Hour)
		if n := len(f.backend.times()); n != 0 {
			t.Fatalf("%d syncs while %v are not known", n, f.tracker.Missing())
		}
		if ok, _ := f.health.Healthy(); ok {
			t.Error("healthy before the first sync")
		}
		f.tracker.SlicesSynced()
		synctest.Wait()
		if n := len(f.backend.times()); n != 1 {
			t.Errorf("%d syncs when all is known, want 1 at once", n)
		}
		if ok, _ := f.health.Healthy(); !ok {
			t.Error("not healthy after the first sync")
		}
	})
}

// TestNodeIsFollowed: a zone, an address or a range of pods that the node gets later is in the
// next rules, at once.
func TestNodeIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := begin(t, &fakeBackend{})
		defer f.stop()
		f.ready()
		for i, n := range []snapshot.Node{
			{Name: "me", Zone: "z1"},
			{Name: "me", Zone: "z1", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}},
			{Name: "me", Zone: "z1", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}},
		} {
			time.Sleep(time.Second)
			f.tracker.NodeChanged(n, true)
			synctest.Wait()
			if got := f.backend.taken(); len(got) != i+2 || !got[i+1].Node.Same(n) {
				t.Errorf("after the node became %+v there were %d syncs, the last for %+v", n, len(got), got[len(got)-1].Node)
			}
		}
	})
}

func TestChangesGatherAndTheFirstGoesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := begin(t, &fakeBackend{took: 50 * time.Millisecond})
		defer f.stop()
		f.ready()
		time.Sleep(10 * time.Second)
		for i := range int32(100) { // one each 10 ms, for a second
			f.tracker.ServiceChanged(nil, svc("a", 80+i))
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(10 * time.Second)
		at := f.backend.times()[1:] // without the one at the start
		if at[0] != 10*time.Second {
			t.Errorf("the first change after quiet waited until %v", at[0])
		}
		// Each sync takes 50 ms and is followed by 500 ms of rest.
		if len(at) != 3 {
			t.Errorf("%d syncs for 100 changes in a second, at %v", len(at), at)
		}
		all := f.backend.taken()
		if got := all[len(all)-1].Services[0].Ports[0].Port; got != 179 {
			t.Errorf("the last sync has port %d, not the newest", got)
		}
	})
}

// TestPendingChangesAreCounted: from when they come until they are written, with the time at which
// the sync was asked for.
func TestPendingChangesAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := begin(t, &fakeBackend{took: 50 * time.Millisecond})
		defer f.stop()
		f.ready()
		registry := prometheus.NewRegistry()
		registry.MustRegister(f.metrics.Collectors()...)
		gauge := func(name string) float64 {
			families, err := registry.Gather()
			if err != nil {
				t.Fatal(err)
			}
			for _, family := range families {
				if family.GetName() == "kubeproxy_sync_proxy_rules_"+name {
					return family.GetMetric()[0].GetGauge().GetValue()
				}
			}
			t.Fatalf("there is no metric %s", name)
			return 0
		}
		time.Sleep(10 * time.Second)
		f.tracker.ServiceChanged(nil, svc("a", 80))
		time.Sleep(100 * time.Millisecond) // written
		asked := time.Now()
		f.tracker.ServiceChanged(nil, svc("a", 81)) // gathered, as are those that follow
		f.tracker.ServiceChanged(nil, svc("b", 80))
		f.tracker.SliceChanged(nil, &discoveryv1.EndpointSlice{})
		time.Sleep(100 * time.Millisecond)
		if s, e := gauge("service_changes_pending"), gauge("endpoint_changes_pending"); s != 2 || e != 1 {
			t.Errorf("%v Services and %v slices are pending, want 2 and 1", s, e)
		}
		if at := gauge("last_queued_timestamp_seconds"); at != float64(asked.UnixNano())/1e9 {
			t.Errorf("queued at %v, want %v", at, asked)
		}
		time.Sleep(time.Second)
		if s, e := gauge("service_changes_pending"), gauge("endpoint_changes_pending"); s != 0 || e != 0 {
			t.Errorf("%v Services and %v slices are pending after the sync", s, e)
		}
	})
}

// TestIdleFollowsTheLastSync: once, when no change has come for a while.
func TestIdleFollowsTheLastSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := begin(t, &fakeBackend{})
		defer f.stop()
		f.ready()
		for range 10 {
			f.tracker.ServiceChanged(nil, svc("a", 80))
			time.Sleep(1500 * time.Millisecond)
		}
		if n := f.idle.Load(); n != 0 {
			t.Errorf("idle %d times while changes came", n)
		}
		time.Sleep(time.Hour)
		if n := f.idle.Load(); n != 1 {
			t.Errorf("idle %d times after the last change, want once", n)
		}
	})
}

// TestUnreadyPodsDoNotWaitForOthers: a pod that has become unready leaves the rules after a rest
// as long as one sync, not ten.
func TestUnreadyPodsDoNotWaitForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := begin(t, &fakeBackend{took: 50 * time.Millisecond})
		defer f.stop()
		f.tracker.SliceChanged(nil, &discoveryv1.EndpointSlice{Endpoints: []discoveryv1.Endpoint{{TargetRef: &corev1.ObjectReference{UID: "pod"}}}})
		f.ready()
		time.Sleep(10 * time.Second)
		f.tracker.ServiceChanged(nil, svc("a", 80)) // until 10.05 s
		time.Sleep(10 * time.Millisecond)
		f.tracker.ServiceChanged(nil, svc("a", 81))
		time.Sleep(60 * time.Millisecond)
		f.tracker.MarkUnready("pod", true)
		f.tracker.ServiceChanged(nil, svc("a", 82)) // does not put it off
		time.Sleep(200 * time.Millisecond)
		f.tracker.MarkUnready("pod", false) // may wait
		f.tracker.MarkUnready("unknown", true)
		time.Sleep(10 * time.Second)
		at := f.backend.times()[1:]
		want := []time.Duration{10 * time.Second, 10*time.Second + 100*time.Millisecond, 10*time.Second + 650*time.Millisecond}
		if !slices.Equal(at, want) {
			t.Errorf("syncs at %v, want %v", at, want)
		}
	})
}

func TestFailuresAreTriedAgainWithTheNewest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var failing atomic.Bool
		failing.Store(true)
		b := &fakeBackend{}
		b.fail = func() error {
			if failing.Load() {
				return errors.New("kernel says no")
			}
			return nil
		}
		f := begin(t, b)
		f.tracker.ServiceChanged(nil, svc("a", 80))
		f.ready()
		time.Sleep(2 * time.Minute)
		if n := len(b.times()); n < 8 || n > 16 {
			t.Errorf("%d tries in two minutes, want them to become rarer", n)
		}
		if ok, _ := f.health.Healthy(); ok {
			t.Error("healthy though nothing has ever been programmed")
		}
		if s := f.health.Status(); s[0].Err == nil {
			t.Error("the status does not tell the error")
		}
		f.tracker.ServiceChanged(nil, svc("a", 81))
		failing.Store(false)
		time.Sleep(time.Minute)
		f.stop()
		if got := b.taken()[0].Services[0].Ports[0].Port; got != 81 {
			t.Errorf("the try that succeeded had port %d", got)
		}
		if !strings.Contains(f.log.String(), "kernel says no") {
			t.Error("the log does not tell why")
		}
	})
}

func TestDriftIsRepairedAndQuietIsQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := begin(t, &fakeBackend{})
		defer f.stop()
		f.ready()
		time.Sleep(time.Hour)
		if n := len(f.backend.times()); n != 1 {
			t.Errorf("%d syncs in an hour without a change", n)
		}
		f.backend.mu.Lock()
		f.backend.drift = []string{"chain X is missing"}
		f.backend.mu.Unlock()
		time.Sleep(31 * time.Second)
		if n := len(f.backend.times()); n != 2 {
			t.Errorf("%d syncs after another program changed rules, want 2", n)
		}
	})
}

// quick is a backend with QuickCheck.
type quick struct {
	fakeBackend
	written bool
	lost    string
	reads   int
}

func (b *quick) QuickCheck(context.Context) (bool, string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	written, lost := b.written, b.lost
	b.written, b.lost = false, ""
	return written, lost, nil
}

func (b *quick) Check(ctx context.Context) ([]string, error) {
	time.Sleep(100 * time.Millisecond)
	b.mu.Lock()
	b.reads++
	b.mu.Unlock()
	return b.fakeBackend.Check(ctx)
}

func (b *quick) read() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.reads
}

// TestWhatOthersRemoveIsBackWithinASecond, and what they write is read, but not all the time.
func TestWhatOthersRemoveIsBackWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &quick{}
		f := begin(t, b)
		defer f.stop()
		f.ready()
		time.Sleep(time.Minute + time.Second/2)
		b.mu.Lock()
		b.lost = "a canary is missing"
		b.mu.Unlock()
		time.Sleep(time.Second)
		if n := len(f.backend.times()); n != 2 {
			t.Errorf("%d syncs a second after rules were removed, want 2", n)
		}
		reads := b.read()
		for range 100 { // another program writes all the time
			b.mu.Lock()
			b.written = true
			b.mu.Unlock()
			time.Sleep(time.Second)
		}
		if n := b.read() - reads; n < 5 || n > 15 { // each takes 100 ms, and 10 s of rest
			t.Errorf("%d checks of all rules in 100 s", n)
		}
	})
}

// TestLeftOutIsReportedAndEverythingElseGoesOn: in log, health and metrics, once.
func TestLeftOutIsReportedAndEverythingElseGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		left := &snapshot.LeftOutError{Problems: []snapshot.Problem{{Object: "Service port ns/a TCP", Reason: "refused"}}}
		var refuse atomic.Bool
		refuse.Store(true)
		b := &fakeBackend{fail: func() error {
			if refuse.Load() {
				return left
			}
			return nil
		}}
		f := begin(t, b)
		defer f.stop()
		f.ready()
		for i := range int32(3) {
			time.Sleep(10 * time.Second)
			f.tracker.ServiceChanged(nil, svc("a", 80+i))
		}
		time.Sleep(10 * time.Second)
		if n := len(b.times()); n != 4 {
			t.Errorf("%d syncs, want 4: one a change", n)
		}
		if n := strings.Count(f.log.String(), "ns/a TCP"); n != 1 {
			t.Errorf("logged %d times:\n%s", n, f.log)
		}
		if ok, _ := f.health.Healthy(); !ok {
			t.Error("not healthy though all other rules are in place")
		}
		if s := f.health.Status(); len(s) != 1 || s[0].Err == nil || !strings.Contains(s[0].Err.Error(), "ns/a TCP") {
			t.Errorf("the status does not name it: %v", s)
		}
		refuse.Store(false)
		f.tracker.ServiceChanged(nil, svc("a", 90))
		time.Sleep(10 * time.Second)
		if s := f.health.Status(); s[0].Err != nil {
			t.Errorf("still reported: %v", s[0].Err)
		}
	})
}

// forgetful fails its first calls.
type forgetful struct {
	mu       sync.Mutex
	failures int
	prevs    []*snapshot.Snapshot
}

func (o *forgetful) Synced(_ context.Context, prev, _ *snapshot.Snapshot) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.failures > 0 {
		o.failures--
		return errors.New("not now")
	}
	o.prevs = append(o.prevs, prev)
	return nil
}

func (o *forgetful) told() []*snapshot.Snapshot {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.prevs)
}

func TestObserversGetEveryChangeOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &forgetful{failures: 2}
		f := begin(t, &fakeBackend{}, o)
		defer f.stop()
		f.ready()
		time.Sleep(time.Minute + time.Second) // fails at 0 s and 30 s, succeeds at 60 s
		if got := o.told(); len(got) != 1 || got[0] != nil {
			t.Fatalf("after two failures it was told of %v", got)
		}
		first := f.backend.taken()
		f.tracker.ServiceChanged(nil, svc("a", 80))
		time.Sleep(time.Second)
		if got := o.told(); len(got) != 2 || got[1] != first[len(first)-1] {
			t.Errorf("the second call does not compare with the first: %v", got)
		}
	})
}

func TestHealthHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &fakeBackend{}
		f := begin(t, b)
		defer f.stop()
		m := proxier.NewMetrics(time.Now())
		m.Count(f.health)
		registry := prometheus.NewRegistry()
		registry.MustRegister(m.Collectors()...)
		ask := func(path string) int {
			w := httptest.NewRecorder()
			f.health.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
			var body map[string]any
			if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || body["lastUpdated"] == nil || body["currentTime"] == nil {
				t.Errorf("%s answers %s", path, w.Body)
			}
			return w.Code
		}
		want := func(when string, healthz, livez int) {
			t.Helper()
			synctest.Wait()
			if h, l := ask("/healthz"), ask("/livez"); h != healthz || l != livez {
				t.Errorf("%s: healthz %d, livez %d, want %d, %d", when, h, l, healthz, livez)
			}
		}
		want("before the first sync", 503, 503)
		f.ready()
		want("in sync", 200, 200)
		f.tracker.NodeChanged(snapshot.Node{Name: "me"}, false)
		want("the node is going away", 503, 200)
		f.tracker.NodeChanged(snapshot.Node{Name: "me"}, true)
		b.mu.Lock()
		b.fail = func() error { return errors.New("no") }
		b.mu.Unlock()
		f.tracker.ServiceChanged(nil, svc("a", 80))
		want("failing for a moment", 200, 200)
		time.Sleep(2 * time.Minute)
		want("failing for long", 503, 503)
	})
}

// kernelTool is the fake kernel as the tool of the iptables backend.
type kernelTool struct{ *fakekernel.Kernel }

func (k kernelTool) Save(context.Context) ([]byte, error) {
	text, err := k.Kernel.Save()
	return []byte(text), err
}

func (k kernelTool) Restore(_ context.Context, text []byte) error {
	return k.Kernel.Restore(string(text))
}

func (k kernelTool) Delete(_ context.Context, j rules.Jump) error {
	return k.Kernel.Delete(j.Table, j.From, j.Rule)
}

// TestAnyHistoryEndsInTheSameKernel: random changes, other programs' damage and
// one failure in ten lead to exactly the kernel that the last state asks for.
func TestAnyHistoryEndsInTheSameKernel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := fakekernel.New(corev1.IPv4Protocol)
		k.Faults(func() error {
			if rand.IntN(10) == 0 {
				return errors.New("one in ten")
			}
			return nil
		})
		quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
		o := rules.Options{Family: corev1.IPv4Protocol, MasqueradeBit: 14}
		backend, err := iptables.New(iptables.Config{Options: o, Tool: kernelTool{k}, Log: quiet})
		if err != nil {
			t.Fatal(err)
		}
		tracker := proxier.NewTracker()
		l, err := proxier.New(proxier.Config{
			Family: corev1.IPv4Protocol, Tracker: tracker, Backend: backend, MinInterval: time.Second,
			CheckInterval: 30 * time.Second, Health: proxier.NewHealth(time.Now, time.Minute, tracker.NodeEligible),
			Metrics: proxier.NewMetrics(time.Now()), Log: quiet, Now: time.Now,
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- l.Run(ctx) }()
		tracker.ServicesSynced()
		tracker.SlicesSynced()
		tracker.NodeChanged(snapshot.Node{Name: "me"}, true)
		tracker.AddressesChanged(nil)
		h := history{tracker: tracker, svcs: map[string]*corev1.Service{}, slices: map[string]*discoveryv1.EndpointSlice{}}
		for range 500 {
			h.step()
			if rand.IntN(20) == 0 {
				k.Flush("nat", "KUBE-SERVICES")
			}
			time.Sleep(time.Duration(rand.IntN(2000)) * time.Millisecond)
		}
		k.Faults(nil)
		time.Sleep(5 * time.Minute)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		want := rules.Render(h.snapshot(), o)
		kernel, err := rules.Parse([]byte(k.String()))
		if err != nil {
			t.Fatal(err)
		}
		if drift := rules.Drift(kernel, want, rules.Jumps(o)); drift != nil {
			t.Errorf("after this history: %v", drift)
		}
		if got, want := strings.Count(k.String(), "\n:KUBE-"), strings.Count(want.String(), "\n:KUBE-"); got != want {
			t.Errorf("the kernel has %d chains of ours, want %d:\n%s", got, want, k)
		}
	})
}

// history is a random life of Services and slices.
type history struct {
	tracker *proxier.Tracker
	svcs    map[string]*corev1.Service
	slices  map[string]*discoveryv1.EndpointSlice
}

func (h *history) step() {
	name := string(rune('a' + rand.IntN(6)))
	old, oldSlice := h.svcs[name], h.slices[name]
	switch rand.IntN(4) {
	case 0, 1:
		s := svc(name, int32(80+rand.IntN(3)))
		s.Spec.ClusterIP = "10.96.0." + string(rune('1'+name[0]-'a'))
		if rand.IntN(2) == 0 {
			s.Spec.Type = corev1.ServiceTypeNodePort
			s.Spec.Ports[0].NodePort = 30000 + int32(name[0])
			s.Spec.ExternalTrafficPolicy = []corev1.ServiceExternalTrafficPolicy{"Local", "Cluster"}[rand.IntN(2)]
		}
		h.svcs[name] = s
		h.tracker.ServiceChanged(old, s)
	case 2:
		if old != nil {
			delete(h.svcs, name)
			h.tracker.ServiceChanged(old, nil)
		}
	case 3:
		port, node := int32(8080), []string{"me", "other"}[rand.IntN(2)]
		s := &discoveryv1.EndpointSlice{
			AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Port: &port}},
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		}
		for range rand.IntN(4) {
			s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{"10.244.0." + string(rune('1'+rand.IntN(9)))}, NodeName: &node})
		}
		h.slices[name] = s
		h.tracker.SliceChanged(oldSlice, s)
	}
}

func (h *history) snapshot() *snapshot.Snapshot {
	var svcs []*corev1.Service
	var sls []*discoveryv1.EndpointSlice
	for _, s := range h.svcs {
		svcs = append(svcs, s)
	}
	for _, s := range h.slices {
		sls = append(sls, s)
	}
	return snapshot.Build(svcs, sls, snapshot.Node{Name: "me"}, corev1.IPv4Protocol)
}
