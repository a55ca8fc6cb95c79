package report

import (
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
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
