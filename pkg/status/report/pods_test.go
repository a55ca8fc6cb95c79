package report

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

func pod(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: "uid-1", ResourceVersion: "1"}}
}

func phase(p corev1.PodPhase) corev1.PodStatus { return corev1.PodStatus{Phase: p} }

// newPods is a reporter on a fake API server of which one call in ten fails.
func newPods(t *testing.T, objects ...runtime.Object) (*Pods, *fake.Clientset, func() []string) {
	t.Helper()
	client := fake.NewClientset(objects...)
	random := rand.New(rand.NewPCG(1, 2))
	var mu sync.Mutex
	var calls []string
	client.PrependReactor("*", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		mu.Lock()
		defer mu.Unlock()
		if random.IntN(10) == 0 {
			return true, nil, errors.New("injected failure")
		}
		calls = append(calls, a.GetVerb()+" "+a.GetSubresource())
		return false, nil, nil
	})
	p, err := NewPods(PodsConfig{Client: client, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return p, client, func() []string { mu.Lock(); defer mu.Unlock(); return append([]string(nil), calls...) }
}

func TestNewestStatusWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one := pod("one")
		p, client, _ := newPods(t, one)
		ctx := t.Context()
		for range 20 {
			p.Put(one, phase(corev1.PodPending))
		}
		p.Put(one, phase(corev1.PodRunning))
		go func() { _ = p.Run(ctx) }()
		time.Sleep(time.Minute)
		synctest.Wait()
		got, err := client.Tracker().Get(corev1.SchemeGroupVersion.WithResource("pods"), "ns", "one")
		if err != nil {
			t.Fatal(err)
		}
		if ph := got.(*corev1.Pod).Status.Phase; ph != corev1.PodRunning {
			t.Errorf("phase %q, want Running", ph)
		}
	})
}

func TestSameStatusIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one := pod("one")
		one.Status = phase(corev1.PodRunning)
		p, _, calls := newPods(t, one)
		p.Put(one, phase(corev1.PodRunning))
		go func() { _ = p.Run(t.Context()) }()
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := calls(); len(got) != 0 {
			t.Errorf("calls %v, want none", got)
		}
	})
}

func TestFinishDeletesAfterTheLastStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one := pod("one")
		p, client, calls := newPods(t, one)
		go func() { _ = p.Run(t.Context()) }()
		p.Finish(one, phase(corev1.PodSucceeded))
		time.Sleep(time.Minute)
		synctest.Wait()
		if _, err := client.Tracker().Get(corev1.SchemeGroupVersion.WithResource("pods"), "ns", "one"); err == nil {
			t.Error("the object is still there")
		}
		got := calls()
		if len(got) < 2 || got[0] != "patch status" || got[len(got)-1] != "delete " {
			t.Errorf("calls %v, want a patch of the status, then a delete", got)
		}
	})
}

// TestConflictIsNotTheEnd: a conflict with another writer is tried again; one because the name is
// another pod's by now is the end of the work.
func TestConflictIsNotTheEnd(t *testing.T) {
	for _, verb := range []string{"patch", "delete"} {
		synctest.Test(t, func(t *testing.T) {
			one := pod("one")
			client := fake.NewClientset(one)
			conflicts, calls := 2, 0
			client.PrependReactor(verb, "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
				calls++
				if conflicts--; conflicts >= 0 {
					return true, nil, apierrors.NewConflict(corev1.Resource("pods"), "one", errors.New("the object has been modified"))
				}
				return false, nil, nil
			})
			p, err := NewPods(PodsConfig{Client: client, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			go func() { _ = p.Run(t.Context()) }()
			p.Finish(one, phase(corev1.PodSucceeded))
			time.Sleep(time.Minute)
			synctest.Wait()
			if _, err := client.Tracker().Get(corev1.SchemeGroupVersion.WithResource("pods"), "ns", "one"); err == nil {
				t.Errorf("a minute after conflicts at its %s the object is still there", verb)
			}

			another := pod("one")
			another.UID = "uid-2"
			if err := client.Tracker().Add(another); err != nil {
				t.Fatal(err)
			}
			conflicts, calls = 1000, 0
			told := one.DeepCopy()
			if verb == "delete" { // nothing is left to patch
				told.Status = phase(corev1.PodFailed)
			}
			p.Finish(told, phase(corev1.PodFailed))
			time.Sleep(time.Hour)
			synctest.Wait()
			if calls > 1 {
				t.Errorf("the name is another pod's, and %d times a %s was tried", calls, verb)
			}
		})
	}
}

// TestStatusesAfterAnOutage: the statuses of many pods that wait for the API server do not all
// come at once, nor are they tried in step.
func TestStatusesAfterAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const qps, burst, count = 20, 5, 300
		client := fake.NewClientset()
		var mu sync.Mutex
		var at []time.Time
		client.PrependReactor("patch", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
			mu.Lock()
			defer mu.Unlock()
			at = append(at, time.Now())
			return true, nil, errors.New("away")
		})
		p, err := NewPods(PodsConfig{Client: client, QPS: qps, Burst: burst, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		go func() { _ = p.Run(t.Context()) }()
		for i := range count {
			one := pod(fmt.Sprint("p", i))
			one.UID = types.UID(one.Name)
			p.Put(one, phase(corev1.PodRunning))
		}
		time.Sleep(time.Minute)
		mu.Lock()
		defer mu.Unlock()
		if len(at) < count {
			t.Errorf("%d requests in a minute for %d pods", len(at), count)
		}
		for i := range at {
			if j := i + qps + burst; j < len(at) && at[j].Sub(at[i]) < time.Second {
				t.Fatalf("more than %d requests within a second, of which %d at once and %d in a second are allowed", qps+burst, burst, qps)
			}
		}
	})
}
