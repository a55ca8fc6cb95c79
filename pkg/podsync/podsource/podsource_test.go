package podsource

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
)

// sink collects updates as text.
type sink struct {
	mu    sync.Mutex
	lines []string
	last  map[string]podspec.Update
}

func (s *sink) emit(u podspec.Update) {
	s.mu.Lock()
	defer s.mu.Unlock()
	line := u.Pod.Name
	if u.Gone {
		line += " gone"
	}
	if u.Mirror != nil {
		line += " mirrored"
	}
	s.lines = append(s.lines, line)
	if s.last == nil {
		s.last = map[string]podspec.Update{}
	}
	s.last[u.Pod.Name] = u
}

// take returns the updates since the last call, sorted.
func (s *sink) take() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	lines := s.lines
	s.lines = nil
	slices.Sort(lines)
	return strings.Join(lines, ", ")
}

func apiPod(name, version string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID("uid-" + name), ResourceVersion: version}}
}

// server is a fake API server that lists and watches what the test sets.
type server struct {
	mu      sync.Mutex
	fail    error
	pods    []corev1.Pod
	watcher *watch.FakeWatcher
	lists   int
	seen    string   // the field selector of the last list
	asked   []string // the least version that each list requested
}

func (s *server) client() *fake.Clientset {
	client := fake.NewClientset()
	client.PrependReactor("list", "pods", func(a clienttesting.Action) (bool, kruntime.Object, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.lists++
		s.asked = append(s.asked, a.(clienttesting.ListActionImpl).ListOptions.ResourceVersion)
		s.seen = a.(clienttesting.ListAction).GetListRestrictions().Fields.String()
		if s.fail != nil {
			return true, nil, s.fail
		}
		return true, &corev1.PodList{ListMeta: metav1.ListMeta{ResourceVersion: fmt.Sprint(s.lists)}, Items: slices.Clone(s.pods)}, nil
	})
	client.PrependWatchReactor("pods", func(clienttesting.Action) (bool, watch.Interface, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.fail != nil {
			return true, nil, s.fail
		}
		s.watcher = watch.NewFakeWithOptions(watch.FakeOptions{ChannelSize: 10})
		return true, s.watcher, nil
	})
	return client
}

func (s *server) set(fail error, pods ...corev1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail, s.pods = fail, pods
}

func (s *server) send(f func(w *watch.FakeWatcher)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watcher == nil {
		panic("there is no watch")
	}
	f(s.watcher)
}

func TestAPIListsWatchesAndForgivesOutages(t *testing.T) {
	outside := time.Now()
	synctest.Test(t, func(t *testing.T) {
		// apimachinery compares the clock with that of the program's start, which was outside of
		// this bubble.
		time.Sleep(time.Until(outside) + time.Hour)
		s := &server{}
		s.set(errors.New("connection refused"))
		source, err := NewAPI(APIConfig{Client: s.client(), NodeName: "n1", Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		var got sink
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- source.Run(ctx, got.emit) }()
		settle := func(d time.Duration, want string) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			if text := got.take(); text != want {
				t.Errorf("updates: %q, want %q", text, want)
			}
		}
		settle(5*time.Minute, "")
		if source.Synced() {
			t.Error("synced without an answer")
		}
		a, b := apiPod("a", "1"), apiPod("b", "2")
		s.set(nil, *a, *b)
		settle(2*time.Minute, "a, b")
		if !source.Synced() || s.seen != "spec.nodeName=n1" {
			t.Errorf("synced %v, selector %q", source.Synced(), s.seen)
		}
		s.send(func(w *watch.FakeWatcher) { w.Modify(apiPod("a", "3")) })
		settle(time.Second, "a")

		// The watch has expired, and lists fail: no pod is reported.
		s.set(errors.New("etcd is away"))
		s.send(func(w *watch.FakeWatcher) {
			gone := apierrors.NewResourceExpired("too old resource version").Status()
			w.Error(&gone)
		})
		settle(10*time.Minute, "")
		// A list succeeds: b was deleted meanwhile, a is unchanged, c is new.
		s.set(nil, *apiPod("a", "3"), *apiPod("c", "4"))
		settle(2*time.Minute, "b gone, c")
		s.send(func(w *watch.FakeWatcher) { w.Delete(apiPod("c", "5")) })
		settle(time.Second, "c gone")
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
}

// static is a static source that does not run: the test calls its parts.
func static(t *testing.T, dir string, client *fake.Clientset, now func() time.Time) (*Static, *sink) {
	t.Helper()
	c := StaticConfig{Dir: dir, NodeName: "n1", Now: now, Log: slog.New(slog.DiscardHandler), Interval: 50 * time.Millisecond}
	if client != nil {
		c.Client = client
	}
	s, err := NewStatic(c)
	if err != nil {
		t.Fatal(err)
	}
	got := &sink{}
	s.emit = got.emit
	return s, got
}

func manifest(t *testing.T, dir, file, name, image string) {
	t.Helper()
	text := fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s}\nspec: {containers: [{name: c, image: %q}]}\n", name, image)
	if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestFirstListIsTrue: pods that the first list lacks are ended as orphans. So the list must come
// from the store, and not from a cache that may be stale.
func TestFirstListIsTrue(t *testing.T) {
	outside := time.Now()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(outside) + time.Hour) // see TestAPIListsWatchesAndForgivesOutages
		s := &server{}
		source, err := NewAPI(APIConfig{Client: s.client(), NodeName: "n1", Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		var got sink
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- source.Run(ctx, got.emit) }()
		time.Sleep(time.Second)
		cancel()
		<-done
		if !slices.Equal(s.asked, []string{""}) {
			t.Errorf("versions asked for: %q; only the empty one stands for the newest", s.asked)
		}
	})
}

func TestStaticFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "manifests")
	s, got := static(t, dir, nil, time.Now)
	expect := func(why, want string) {
		t.Helper()
		s.scan()
		if text := got.take(); text != want {
			t.Errorf("%s: %q, want %q", why, text, want)
		}
	}
	expect("no folder", "")
	if !s.Synced() {
		t.Error("not synced without a folder")
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	manifest(t, dir, "a.yaml", "a", "x:1")
	manifest(t, dir, ".b.yaml.swp", "b", "x:1")
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	expect("first file", "a-n1")
	expect("nothing new", "")
	uid := got.last["a-n1"].UID
	manifest(t, dir, "a.yaml", "a", "x:2")
	expect("a change is another pod", "a-n1, a-n1 gone")
	if got.last["a-n1"].UID == uid {
		t.Error("a changed manifest has the same UID")
	}
	if err := os.WriteFile(filepath.Join(dir, "a.yaml"), []byte("apiVersion: v1\nkind: Pod\nmeta"), 0o600); err != nil {
		t.Fatal(err)
	}
	expect("half a file", "")
	if p := s.Problems(); len(p) != 1 || filepath.Base(p[0].File) != "a.yaml" {
		t.Errorf("problems: %v", p)
	}
	manifest(t, dir, "a.yaml", "a", "x:2")
	expect("the same again", "")
	if p := s.Problems(); len(p) != 0 {
		t.Errorf("problems: %v", p)
	}
	manifest(t, dir, "z.yaml", "a", "x:3")
	expect("a double name", "")
	if p := s.Problems(); len(p) != 1 || !strings.Contains(p[0].Err.Error(), "defines the pod default/a-n1 too") {
		t.Errorf("problems: %v", p)
	}
	if err := os.Remove(filepath.Join(dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	expect("the double takes over", "a-n1, a-n1 gone")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	expect("no folder again", "a-n1 gone")
}

func TestStaticSeesChangesAtOnce(t *testing.T) {
	dir := t.TempDir()
	s, _ := static(t, dir, nil, time.Now)
	s.config.Interval = time.Hour
	updates := make(chan podspec.Update, 10)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, func(u podspec.Update) { updates <- u }) }()
	for !s.Synced() {
		time.Sleep(time.Millisecond)
	}
	manifest(t, dir, "a.yaml", "a", "x:1")
	select {
	case u := <-updates:
		if u.Pod.Name != "a-n1" || !u.Static {
			t.Errorf("update %+v", u)
		}
	case <-time.After(10 * time.Second):
		t.Error("a new manifest was not seen")
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run returned %v", err)
	}
}

// mirrored is a static source whose mirrors go to a fake API server, and come back as from a watch.
type mirrored struct {
	*Static
	t      *testing.T
	client *fake.Clientset
	got    *sink
	now    time.Time
	dir    string
	made   int
}

func newMirrored(t *testing.T) *mirrored {
	m := &mirrored{t: t, dir: t.TempDir(), now: time.Unix(1e9, 0)}
	m.client = fake.NewClientset(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "node-uid"}})
	m.client.PrependReactor("create", "pods", func(a clienttesting.Action) (bool, kruntime.Object, error) {
		m.made++
		a.(clienttesting.CreateAction).GetObject().(*corev1.Pod).UID = types.UID(fmt.Sprint("api-", m.made))
		return false, nil, nil
	})
	m.Static, m.got = static(t, m.dir, m.client, func() time.Time { return m.now })
	return m
}

func (m *mirrored) settle() {
	m.t.Helper()
	m.scan()
	for range 3 {
		if err := m.syncMirrors(m.t.Context()); err != nil {
			m.t.Fatal(err)
		}
	}
}

func (m *mirrored) pods() []corev1.Pod {
	m.t.Helper()
	list, err := m.client.CoreV1().Pods("").List(m.t.Context(), metav1.ListOptions{})
	if err != nil {
		m.t.Fatal(err)
	}
	return list.Items
}

func TestMirrorIsMadeAndMadeAgain(t *testing.T) {
	m := newMirrored(t)
	manifest(t, m.dir, "a.yaml", "a", "x:1")
	m.settle()
	if len(m.pods()) != 0 {
		t.Error("a mirror was made before it was known which there are")
	}
	m.MirrorsListed()
	m.settle()
	pods := m.pods()
	if len(pods) != 1 {
		t.Fatalf("%d mirrors, want 1", len(pods))
	}
	static, mirror := m.got.last["a-n1"], pods[0]
	owner := mirror.OwnerReferences
	if mirror.Annotations[MirrorAnnotation] != string(static.UID) || mirror.Spec.NodeName != "n1" ||
		len(owner) != 1 || owner[0].Kind != "Node" || owner[0].UID != "node-uid" || !*owner[0].Controller {
		t.Errorf("mirror %+v", mirror.ObjectMeta)
	}
	if static.Mirror == nil || static.Mirror.UID != "api-1" {
		t.Errorf("the static pod was not told of its mirror: %+v", static.Mirror)
	}
	// A user deletes it.
	deleted := mirror.DeepCopy()
	deleted.DeletionTimestamp = &metav1.Time{Time: m.now}
	m.ObserveMirror(deleted, false)
	m.settle()
	if pods = m.pods(); len(pods) != 1 || pods[0].UID != "api-2" {
		t.Errorf("after its deletion: %+v", pods)
	}
	if u := m.got.last["a-n1"]; u.Gone || u.Mirror == nil || u.Mirror.UID != "api-2" {
		t.Errorf("the static pod was told %+v", u)
	}
}

func TestMirrorOfAnEndingPodIsLeftToItsEnd(t *testing.T) {
	m := newMirrored(t)
	manifest(t, m.dir, "a.yaml", "a", "x:1")
	m.MirrorsListed()
	m.settle()
	old := m.pods()[0]
	manifest(t, m.dir, "a.yaml", "a", "x:2")
	m.settle()
	if pods := m.pods(); len(pods) != 1 || pods[0].UID != old.UID {
		t.Fatalf("the mirror of a pod that is ending was touched: %+v", pods)
	}
	// The status writer has finished it.
	if err := m.client.CoreV1().Pods(old.Namespace).Delete(t.Context(), old.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	m.ObserveMirror(&old, true)
	m.settle()
	if pods := m.pods(); len(pods) != 1 || pods[0].UID == old.UID || pods[0].Annotations[MirrorAnnotation] == old.Annotations[MirrorAnnotation] {
		t.Errorf("the changed pod has no mirror of its own: %+v", pods)
	}
	// Nobody finishes the next one: in the end the source deletes it.
	if err := os.Remove(filepath.Join(m.dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	m.settle()
	if len(m.pods()) != 1 {
		t.Error("the mirror went before its pod's end")
	}
	m.now = m.now.Add(2 * time.Minute)
	m.settle()
	if pods := m.pods(); len(pods) != 0 {
		t.Errorf("a mirror is left: %+v", pods)
	}
}

func TestMirrorsOfAnotherLifeAreRemoved(t *testing.T) {
	m := newMirrored(t)
	stale := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "old-n1", Namespace: "default", UID: "stale", Annotations: map[string]string{MirrorAnnotation: "h"}}}
	if err := m.client.Tracker().Add(stale); err != nil {
		t.Fatal(err)
	}
	m.ObserveMirror(stale, false)
	m.settle()
	if len(m.pods()) != 1 {
		t.Error("a mirror was removed before all were known")
	}
	m.MirrorsListed()
	m.settle()
	if pods := m.pods(); len(pods) != 0 {
		t.Errorf("left: %+v", pods)
	}
}

func TestAPIGivesMirrorsToWhoMirrors(t *testing.T) {
	m := newMirrored(t)
	var got sink
	api, err := NewAPI(APIConfig{Client: m.client, NodeName: "n1", Mirrors: m, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	store := &podStore{source: api, emit: got.emit}
	mirror := apiPod("m", "1")
	mirror.Annotations = map[string]string{MirrorAnnotation: "h"}
	if err := store.Replace([]any{mirror, apiPod("a", "2")}, "2"); err != nil {
		t.Fatal(err)
	}
	if text := got.take(); text != "a" || len(m.mirrors) != 1 || !m.listed {
		t.Errorf("updates %q, %d mirrors, listed %v", text, len(m.mirrors), m.listed)
	}
}
