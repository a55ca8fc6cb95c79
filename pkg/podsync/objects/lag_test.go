package objects_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clienttesting "k8s.io/client-go/testing"
)

// TestTokenOfANewPod: the server's caches learn of the pod, its service account or its
// authorization later than the agent, or still have an earlier pod of the same name.
func TestTokenOfANewPod(t *testing.T) {
	for name, behind := range map[string]error{
		"no pod":             apierrors.NewNotFound(corev1.Resource("pod"), "p-u1"),
		"no service account": apierrors.NewNotFound(corev1.Resource("serviceaccounts"), "default"),
		"no relationship":    apierrors.NewForbidden(corev1.Resource("serviceaccounts"), "default", errors.New("no relationship found")),
		"another pod":        apierrors.NewConflict(corev1.Resource("pod"), "p-u1", errors.New("the UID does not match")),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBed(t)
				refusals, tries := 4, 0
				b.client.PrependReactor("create", "serviceaccounts", func(a clienttesting.Action) (bool, runtime.Object, error) {
					tries++
					if refusals--; refusals >= 0 {
						return true, nil, behind
					}
					r := a.(clienttesting.CreateActionImpl).Object.(*authenticationv1.TokenRequest).DeepCopy()
					r.Status.Token = "token"
					return true, r, nil
				})
				began := time.Now()
				if got, err := b.Token(context.Background(), pod("u1"), "", 600); err != nil || got != "token" {
					t.Errorf("got %q, %v", got, err)
				}
				if took := time.Since(began); took > 100*time.Millisecond {
					t.Errorf("four refusals took %s", took)
				}
				refusals, tries, began = 1000, 0, time.Now()
				if _, err := b.Token(context.Background(), pod("u2"), "", 600); err == nil || time.Since(began) > 2*time.Second {
					t.Errorf("refused for good: %v, after %s", err, time.Since(began))
				}
				if tries > 10 {
					t.Errorf("refused for good: %d requests", tries)
				}
			})
		})
	}
}

// TestTokenOutlivesClocks: a token is renewed by its lifetime, whatever this machine's clock says
// about its expiry.
func TestTokenOutlivesClocks(t *testing.T) {
	for _, ahead := range []time.Duration{-2 * time.Hour, 0, 2 * time.Hour} {
		b := newBed(t)
		requests := 0
		b.client.PrependReactor("create", "serviceaccounts", func(a clienttesting.Action) (bool, runtime.Object, error) {
			requests++
			r := a.(clienttesting.CreateActionImpl).Object.(*authenticationv1.TokenRequest).DeepCopy()
			r.Status.Token = "token"
			// by the server's clock
			r.Status.ExpirationTimestamp = metav1.NewTime(time.Unix(b.now.Load()+1000, 0).Add(-ahead))
			return true, r, nil
		})
		for _, at := range []int64{0, 790, 810} {
			b.now.Store(at)
			if _, err := b.Token(context.Background(), pod("u1"), "", 1000); err != nil {
				t.Fatal(err)
			}
		}
		if requests != 2 {
			t.Errorf("this machine's clock %s ahead: %d requests in 810 s of a life of 1000 s, want 2", ahead, requests)
		}
	}
}

// TestAppearanceIsTold: an object that is created between the read that missed it and the first
// list of the watch is reported as changed.
func TestAppearanceIsTold(t *testing.T) {
	b := newBed(t)
	b.Use(pod("u1"))
	if got := b.value(t); got != `configmap "conf" not found` {
		t.Fatalf("got %q", got)
	}
	must(t, b.client.Tracker().Add(conf("7", "seven")))
	b.run(t)
	eventually(t, "the news", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return slices.Equal(b.told, []types.UID{"u1"})
	})
	if got := b.value(t); got != "seven" {
		t.Errorf("got %q", got)
	}
}

// TestRestoredFromABackup: the server's store was restored, so that new objects have lower versions
// than cached ones. New pods get what the server has, and the watch starts over, because the old
// one waits for versions that will not come.
func TestRestoredFromABackup(t *testing.T) {
	maps := corev1.SchemeGroupVersion.WithResource("configmaps")
	b := newBed(t, conf("900", "before"))
	b.run(t)
	b.Use(pod("u1"))
	first := b.watcher(t)
	if got := b.value(t); got != "before" {
		t.Fatalf("got %q", got)
	}
	must(t, b.client.Tracker().Update(maps, conf("100", "restored"), "ns"))
	b.Use(pod("u2"))
	if got := b.value(t); got != "restored" {
		t.Errorf("a new pod: got %q", got)
	}
	eventually(t, "the end of the first watch", first.IsStopped)
	second := b.watcher(t)
	second.Modify(conf("101", "after"))
	eventually(t, "a change after the restore", func() bool { return b.value(t) == "after" })
}
