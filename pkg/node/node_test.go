package node_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/node"
	"github.com/nodeagent/nodeagent/pkg/node/pressure"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
)

// world is what a node loop observes and does.
type world struct {
	mu          sync.Mutex // held by the test, but for the time in pass
	health      string
	reports     int
	allocatable corev1.ResourceList
	nodeLimits  int
	failing     bool // the cgroup of all pods cannot be written
	levels      int
	pods        []node.Pod
	measured    map[types.UID]int
	used        int64
	evicted     map[types.UID]podspec.Termination
	events      []string
}

func (w *world) lock() (unlock func()) {
	w.mu.Lock()
	return w.mu.Unlock
}

// pass lets the loop run for d.
func (w *world) pass(d time.Duration) {
	w.mu.Unlock()
	defer w.mu.Lock()
	time.Sleep(d)
	synctest.Wait()
}

func (w *world) SetNode(context.Context, corev1.ResourceList) error {
	defer w.lock()()
	w.nodeLimits++
	if w.failing {
		return errors.New("read-only file system")
	}
	return nil
}

func (w *world) SetLevels(pods []*corev1.Pod) error {
	defer w.lock()()
	w.levels = len(pods)
	return nil
}

func (w *world) Event(o kruntime.Object, _, reason, _ string) {
	defer w.lock()()
	w.events = append(w.events, o.(*corev1.Pod).Name+" "+reason)
}

func (w *world) config() node.Config {
	w.measured, w.evicted = map[types.UID]int{}, map[types.UID]podspec.Termination{}
	return node.Config{
		Health:       func(context.Context) string { defer w.lock()(); return w.health },
		Changed:      func() { defer w.lock()(); w.reports++ },
		Pods:         func() []node.Pod { defer w.lock()(); return w.pods },
		Allocatable:  func() corev1.ResourceList { defer w.lock()(); return w.allocatable },
		Cgroups:      w,
		LimitStorage: true,
		Storage: func(_ context.Context, pod *corev1.Pod) (pressure.Usage, error) {
			defer w.lock()()
			w.measured[pod.UID]++
			return pressure.Usage{Files: w.used}, errors.New("a volume is not mounted")
		},
		Evict:  func(uid types.UID, t podspec.Termination) { defer w.lock()(); w.evicted[uid] = t },
		Events: w, Now: time.Now, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
}

func limited(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "c", Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse("1Mi")}},
		}}},
	}
}

func run(t *testing.T, w *world, test func()) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l, err := node.New(w.config())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- l.Run(ctx) }()
		w.mu.Lock()
		test()
		w.mu.Unlock()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestStorageLimits: of the pods with limits, those that live are measured; one that exceeds its
// limit is evicted with an event, though not everything could be measured.
func TestStorageLimits(t *testing.T) {
	deleted, over := limited("deleted"), limited("over")
	deleted.DeletionTimestamp = &metav1.Time{}
	over.Status.Phase = corev1.PodFailed
	w := &world{pods: []node.Pod{
		{Pod: limited("a")}, {Pod: limited("static"), Static: true}, {Pod: limited("ended"), Ended: true}, {Pod: deleted}, {Pod: over}, {Pod: &corev1.Pod{}},
	}}
	run(t, w, func() {
		w.pass(15 * time.Second)
		if len(w.measured) != 1 || w.measured["a"] != 1 || len(w.evicted) != 0 {
			t.Errorf("measured %v, evicted %v", w.measured, w.evicted)
		}
		w.used = 1<<20 + 1
		w.pass(10 * time.Second)
		if e := w.evicted["a"]; len(w.evicted) != 1 || e.Reason != "Evicted" || len(w.events) != 1 || w.events[0] != "a Evicted" {
			t.Errorf("evicted %+v, events %v", w.evicted, w.events)
		}
	})
}

// TestHealthAndCgroups: the status is reported once for each change of runtime or network; the
// cgroup of all pods is written when the node's resources change, and again after a failure.
func TestHealthAndCgroups(t *testing.T) {
	w := &world{health: "fine", pods: []node.Pod{{Pod: limited("a")}}}
	run(t, w, func() {
		w.pass(10500 * time.Millisecond)
		if w.reports != 1 || w.nodeLimits != 0 || w.levels != 1 {
			t.Errorf("%d reports, %d limits, %d pods in levels", w.reports, w.nodeLimits, w.levels)
		}
		w.health, w.failing, w.allocatable = "network gone", true, corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2")}
		w.pass(10 * time.Second)
		if w.reports != 2 || w.nodeLimits != 2 {
			t.Errorf("%d reports, %d limits", w.reports, w.nodeLimits)
		}
		w.failing = false
		w.pass(time.Minute)
		if w.nodeLimits != 3 {
			t.Errorf("a limit that stands is written again: %d times", w.nodeLimits)
		}
	})
}
