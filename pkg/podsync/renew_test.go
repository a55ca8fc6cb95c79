package podsync_test

import (
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
)

// TestObjectThatAppears: whatever of a pod's start waits for an object goes on when the object
// appears, and not when the back-off of the last failure ends, which is most of a minute by then;
// also when it appears while it is being looked for.
func TestObjectThatAppears(t *testing.T) {
	secret := podspec.ObjectRef{Kind: "secret", Name: "s"}
	for _, reading := range []time.Duration{0, 700 * time.Millisecond} {
		for _, what := range []string{"volume", "config", "image"} {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 0)
				w.missing, w.reading = what, reading
				loop, stop := w.start()
				defer stop()
				w.source.sync()
				w.add(testPod("u1", func(p *corev1.Pod) {
					p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "s"}}
					p.Spec.Containers[0].ImagePullPolicy = corev1.PullAlways
				}))
				elapse(3 * time.Minute)
				if s := w.newest("u1"); s.Phase != corev1.PodPending {
					t.Fatalf("missing for the %s: phase %s", what, s.Phase)
				}
				for range 4000 {
					if (w.reads() > 0) == (reading > 0) {
						break
					}
					elapse(100 * time.Millisecond)
				}
				w.mu.Lock()
				w.missing = ""
				w.mu.Unlock()
				loop.Renew("u1", secret)
				elapse(2 * time.Second)
				if s := w.newest("u1"); s.Phase != corev1.PodRunning {
					t.Errorf("missing for the %s, found after %s: two seconds after it appeared the pod is %s\n%s", what, reading, s.Phase, w.log)
				}
			})
		}
	}
}

// reads is how many just now look for an object that is missing.
func (w *world) reads() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.readers
}
