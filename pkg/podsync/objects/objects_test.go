package objects_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/nodeagent/nodeagent/pkg/podsync/objects"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume"
)

var _ volume.Objects = (*objects.Objects)(nil)

// bed is a cache over a fake server whose watches deliver only what the test sends.
type bed struct {
	*objects.Objects
	client *fake.Clientset
	events chan *watch.FakeWatcher // each watch that was opened
	gets   atomic.Int32
	now    atomic.Int64 // seconds
	mu     sync.Mutex
	told   []types.UID
}

func newBed(t *testing.T, initial ...runtime.Object) *bed {
	t.Helper()
	b := &bed{client: fake.NewClientset(initial...), events: make(chan *watch.FakeWatcher, 10)}
	b.client.PrependWatchReactor("*", func(clienttesting.Action) (bool, watch.Interface, error) {
		w := watch.NewFakeWithChanSize(10, false)
		b.events <- w
		return true, w, nil
	})
	b.client.PrependReactor("get", "*", func(clienttesting.Action) (bool, runtime.Object, error) {
		b.gets.Add(1)
		return false, nil, nil
	})
	var err error
	b.Objects, err = objects.New(objects.Config{
		Client:   b.client,
		Services: func(string) ([]*corev1.Service, error) { return nil, errors.New("not synced") },
		Changed: func(_ podspec.ObjectRef, pods []types.UID) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.told = append(b.told, pods...)
		},
		Now: func() time.Time { return time.Unix(b.now.Load(), 0) },
		Log: slog.New(slog.DiscardHandler),
	})
	must(t, err)
	return b
}

// run starts the cache, and checks at the end of the test that all its goroutines have stopped.
func (b *bed) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			must(t, err)
		case <-time.After(10 * time.Second):
			t.Error("Run does not return")
		}
	})
}

func (b *bed) value(t *testing.T) string {
	t.Helper()
	c, err := b.ConfigMap(context.Background(), "ns", "conf")
	if apierrors.IsNotFound(err) {
		return err.Error()
	}
	must(t, err)
	return c.Data["v"]
}

func (b *bed) watcher(t *testing.T) *watch.FakeWatcher {
	t.Helper()
	select {
	case w := <-b.events:
		return w
	case <-time.After(10 * time.Second):
		t.Fatal("nothing is watched")
		return nil
	}
}

func conf(version, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "conf", ResourceVersion: version, UID: "c"}, Data: map[string]string{"v": value}}
}

func pod(uid types.UID) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p-" + string(uid), UID: uid}, Spec: corev1.PodSpec{
		Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
			LocalObjectReference: corev1.LocalObjectReference{Name: "conf"},
		}}}},
	}}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for: %s", what)
		}
	}
}

// The server has something newer than the watch has delivered: an old pod keeps what it has, a new
// one gets what the server has.
func TestANewPodIsServedNothingStale(t *testing.T) {
	b := newBed(t, conf("1", "one"))
	b.run(t)
	b.Use(pod("u1"))
	b.watcher(t)
	if got := b.value(t); got != "one" {
		t.Fatalf("got %q", got)
	}
	must(t, b.client.Tracker().Update(corev1.SchemeGroupVersion.WithResource("configmaps"), conf("2", "two"), "ns"))
	eventually(t, "answers without a request", func() bool {
		before := b.gets.Load()
		return b.value(t) == "one" && b.gets.Load() == before
	})
	b.Use(pod("u1")) // a second Use changes nothing
	if got := b.value(t); got != "one" {
		t.Errorf("the old pod: got %q", got)
	}
	b.Use(pod("u2"))
	before := b.gets.Load()
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			if got, err := b.ConfigMap(context.Background(), "ns", "conf"); err != nil || got.Data["v"] != "two" {
				t.Errorf("the new pod: %v, %v", got, err)
			}
		})
	}
	group.Wait()
	if asked := b.gets.Load() - before; asked != 1 {
		t.Errorf("the server was asked %d times", asked)
	}
}

func TestChangesAreToldAndOlderOnesDropped(t *testing.T) {
	b := newBed(t, conf("5", "five"))
	b.run(t)
	b.Use(pod("u1"))
	b.Use(pod("u2"))
	w := b.watcher(t)
	if got := b.value(t); got != "five" {
		t.Fatalf("got %q", got)
	}
	w.Modify(conf("4", "four, late"))
	w.Modify(conf("6", "six"))
	eventually(t, "six", func() bool { return b.value(t) == "six" })
	must(t, b.client.Tracker().Delete(corev1.SchemeGroupVersion.WithResource("configmaps"), "ns", "conf"))
	w.Delete(conf("7", "six"))
	eventually(t, "gone", func() bool { return b.value(t) == `configmap "conf" not found` })
	w.Add(conf("8", "eight"))
	eventually(t, "eight", func() bool { return b.value(t) == "eight" })
	b.mu.Lock()
	defer b.mu.Unlock()
	slices.Sort(b.told)
	if want := []types.UID{"u1", "u1", "u1", "u2", "u2", "u2"}; !slices.Equal(b.told, want) {
		t.Errorf("told %v, want %v", b.told, want)
	}
}

func TestWhatIsImmutableIsNotWatched(t *testing.T) {
	final := conf("1", "one")
	yes := true
	final.Immutable = &yes
	b := newBed(t, final)
	b.run(t)
	b.Use(pod("u1"))
	if got := b.value(t); got != "one" {
		t.Fatalf("got %q", got)
	}
	select {
	case w := <-b.events: // it may have started before the answer came
		eventually(t, "the end of the watch", w.IsStopped)
	case <-time.After(50 * time.Millisecond):
	}
	before := b.gets.Load()
	if got := b.value(t); got != "one" || b.gets.Load() != before {
		t.Errorf("got %q with %d requests", got, b.gets.Load()-before)
	}
}

func TestForgetEndsTheWatchWithItsLastUser(t *testing.T) {
	b := newBed(t, conf("1", "one"))
	b.run(t)
	b.Use(pod("u1"))
	b.Use(pod("u2"))
	w := b.watcher(t)
	b.Forget("u1")
	b.Forget("never seen")
	time.Sleep(10 * time.Millisecond)
	if w.IsStopped() {
		t.Fatal("the watch ended with a user left")
	}
	b.Forget("u2")
	eventually(t, "the end of the watch", w.IsStopped)
	must(t, b.client.Tracker().Update(corev1.SchemeGroupVersion.WithResource("configmaps"), conf("2", "two"), "ns"))
	if got := b.value(t); got != "two" {
		t.Errorf("without users: got %q", got)
	}
	b.Use(pod("u3"))
	b.watcher(t)
	if got := b.value(t); got != "two" {
		t.Errorf("a user again: got %q", got)
	}
}

// Without a watch, every read works all the same.
func TestWithoutRun(t *testing.T) {
	b := newBed(t, conf("1", "one"))
	b.Use(pod("u1"))
	for _, want := range []string{"one", "two"} {
		if got := b.value(t); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		must(t, b.client.Tracker().Update(corev1.SchemeGroupVersion.WithResource("configmaps"), conf("2", "two"), "ns"))
	}
	_, err := b.Secret(context.Background(), "ns", "none")
	if !apierrors.IsNotFound(err) || err.Error() != `secret "none" not found` {
		t.Errorf("got %v", err)
	}
}

// The authorizer learns of a new pod a moment later than the node.
func TestForbiddenIsTriedAgain(t *testing.T) {
	b := newBed(t, conf("1", "one"))
	refusals := 2
	b.client.PrependReactor("get", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
		if refusals--; refusals >= 0 {
			return true, nil, apierrors.NewForbidden(corev1.Resource("configmaps"), "conf", errors.New("no relationship found between node and this object"))
		}
		return false, nil, nil
	})
	if got := b.value(t); got != "one" {
		t.Errorf("got %q", got)
	}
	refusals = 1000
	if _, err := b.ConfigMap(context.Background(), "ns", "conf"); !apierrors.IsForbidden(err) {
		t.Errorf("got %v", err)
	}
}

func TestTokens(t *testing.T) {
	b := newBed(t)
	var requests []*authenticationv1.TokenRequest
	var fail error
	b.client.PrependReactor("create", "serviceaccounts", func(action clienttesting.Action) (bool, runtime.Object, error) {
		create := action.(clienttesting.CreateActionImpl)
		request := create.Object.(*authenticationv1.TokenRequest).DeepCopy()
		requests = append(requests, request)
		if fail != nil {
			return true, nil, fail
		}
		request.Status = authenticationv1.TokenRequestStatus{
			Token:               fmt.Sprintf("%s-%d", create.Name, len(requests)),
			ExpirationTimestamp: metav1.NewTime(time.Unix(b.now.Load()+*request.Spec.ExpirationSeconds, 0)),
		}
		return true, request, nil
	})
	p := pod("u1")
	p.Spec.ServiceAccountName = "sa"
	get := func() (string, error) { return b.Token(context.Background(), p, "vault", 1000) }
	for _, step := range []struct {
		at   int64
		fail error
		want string
	}{
		{0, nil, "sa-1"},
		{799, nil, "sa-1"},
		{800, nil, "sa-2"},
		{1600, errors.New("no"), "sa-2"}, // still good
		{1601, nil, "sa-4"},
		{9999, errors.New("no"), "error"},
	} {
		b.now.Store(step.at)
		fail = step.fail
		got, err := get()
		if err != nil {
			got = "error"
		}
		if got != step.want {
			t.Errorf("after %d s: got %q (%v), want %q", step.at, got, err, step.want)
		}
	}
	if r := requests[0].Spec; r.BoundObjectRef.UID != "u1" || r.BoundObjectRef.Name != p.Name || !slices.Equal(r.Audiences, []string{"vault"}) {
		t.Errorf("asked for %+v", r)
	}
	fail = nil
	b.Forget("u1")
	b.now.Store(1602)
	if got, err := get(); err != nil || got == "sa-4" {
		t.Errorf("after forgetting: %q, %v", got, err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
