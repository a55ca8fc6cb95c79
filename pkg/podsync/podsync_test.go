package podsync_test

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// faults is how many calls fail in tests that do not ask for something else.
const faults = 0.1

func condition(s corev1.PodStatus, t corev1.PodConditionType) corev1.ConditionStatus {
	for _, c := range s.Conditions {
		if c.Type == t {
			return c.Status
		}
	}
	return ""
}

func TestPodStartsIsReportedAndEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, faults)
		loop, stop := w.start()
		defer stop()
		w.source.sync()
		pod := testPod("u1")
		w.add(pod)
		elapse(5 * time.Minute)
		s := w.newest("u1")
		if s.Phase != corev1.PodRunning || condition(s, corev1.PodReady) != corev1.ConditionTrue || s.PodIP != "10.244.0.9" {
			t.Fatalf("status after 5 minutes: %+v\n%s", s, w.log)
		}
		if n := w.count(&w.starts, "u1/app/"); n != 1 {
			t.Errorf("the container was started %d times", n)
		}
		pod = w.remove(pod, 30)
		elapse(5 * time.Minute)
		if left := w.left(); left != "" {
			t.Errorf("left after the end:\n%s%s", left, w.log)
		}
		final, ok := w.finished["u1"]
		if !ok || len(final.ContainerStatuses) != 1 || final.ContainerStatuses[0].State.Terminated == nil {
			t.Fatalf("final status: %v %+v", ok, final)
		}
		if m := final.ContainerStatuses[0].State.Terminated.Message; m != "last words of app, at most 4096" {
			t.Errorf("termination message %q", m)
		}
		w.gone(pod)
		elapse(time.Minute)
		if views := loop.Snapshot(); len(views) != 0 {
			t.Errorf("entries are left of a pod that is gone: %+v", views)
		}
	})
}

func TestFastStartIsNotDelayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 0)
		_, stop := w.start()
		defer stop()
		w.source.sync()
		elapse(time.Second)
		w.add(testPod("u1"))
		elapse(60 * time.Millisecond) // of which starting the container takes 50
		if s := w.newest("u1"); s.Phase != corev1.PodRunning {
			t.Errorf("not running after 60 ms: %+v\n%s", s, w.log)
		}
	})
}

// TestReplacedContainerIsToldWithItsSuccessor: between the two, nobody but this node hears that the
// pod is not ready.
func TestReplacedContainerIsToldWithItsSuccessor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 0)
		_, stop := w.start()
		defer stop()
		w.source.sync()
		pod := testPod("u1")
		w.add(pod)
		elapse(time.Minute)
		pod = pod.DeepCopy()
		pod.Spec.Containers[0].Image = "app:2"
		w.mu.Lock()
		pod.Status = w.statuses["u1"][len(w.statuses["u1"])-1]
		w.statuses["u1"] = nil
		w.mu.Unlock()
		w.add(pod)
		elapse(time.Minute)
		if s := w.newest("u1"); len(s.ContainerStatuses) != 1 || s.ContainerStatuses[0].RestartCount != 1 {
			t.Fatalf("the container was not replaced: %+v\n%s", s, w.log)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, s := range w.statuses["u1"] {
			if condition(s, corev1.PodReady) != corev1.ConditionTrue {
				t.Errorf("told the API that the pod is not ready: %+v", s)
			}
		}
		if len(w.held["u1"]) == 0 || condition(w.held["u1"][0], corev1.PodReady) != corev1.ConditionFalse {
			t.Errorf("did not tell this node that the pod is not ready: %+v", w.held["u1"])
		}
	})
}

func TestOrphansWaitForEverySource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, faults)
		w.pods["old"] = &runtime.Pod{
			PodRef:  runtime.PodRef{UID: "old", Namespace: "default", Name: "old"},
			Sandbox: &runtime.Sandbox{ID: runtime.SandboxID("old", 0), Ready: true},
			Containers: []runtime.Container{{
				ID: runtime.ContainerID("old", "app", 0), Name: "app", State: runtime.Running, SandboxID: runtime.SandboxID("old", 0),
				// neither the pod's object nor the image, which nobody names, can say so any more
				Recorded: runtime.Recorded{StopSignal: "SIGQUIT"},
			}},
		}
		w.dirs["old"], w.dirs["older"] = true, true // of older only its folder is left
		loop, stop := w.start()
		defer stop()
		elapse(time.Minute)
		w.hint("old") // something happens to it
		loop.Wake("older")
		elapse(10 * time.Minute)
		if len(w.signals) > 0 || len(w.pods) != 1 || len(w.dirs) != 2 {
			t.Fatalf("an orphan was touched before the source had synced: %v %s", w.signals, w.log)
		}
		w.source.sync()
		elapse(10 * time.Minute)
		if left := w.left(); left != "" {
			t.Errorf("orphans are left:\n%s%s", left, w.log)
		}
		if len(w.signals) == 0 || w.signals[0] != syscall.SIGQUIT.String() {
			t.Errorf("signals %q, want the container's own first", w.signals)
		}
	})
}

func TestAgentRestartChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, faults)
		_, stop := w.start()
		w.source.sync()
		pods := map[types.UID]*corev1.Pod{}
		for i := range 20 {
			pod := testPod(fmt.Sprint("u", i), func(p *corev1.Pod) {
				p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{}
			})
			pods[pod.UID] = pod
			w.add(pod)
		}
		elapse(5 * time.Minute)
		w.mu.Lock()
		for uid := range pods {
			w.probes[runtime.ContainerID(uid, "app", 0)] = podspec.Probes{Readiness: podspec.ProbeSuccess}
		}
		w.mu.Unlock()
		elapse(5 * time.Minute)
		stop()
		if w.mu.Lock(); len(w.starts) != 20 {
			t.Fatalf("%d starts of 20 containers", len(w.starts))
		}
		// What was reported is what the API server holds; probe results are lost.
		w.probes = map[string]podspec.Probes{}
		for uid, pod := range pods {
			next := pod.DeepCopy()
			next.Status = w.statuses[uid][len(w.statuses[uid])-1]
			if condition(next.Status, corev1.PodReady) != corev1.ConditionTrue {
				t.Fatalf("pod %s was not ready before the restart", uid)
			}
			pods[uid], w.statuses[uid] = next, nil
		}
		w.source = &source{updates: make(chan podspec.Update, 100)}
		w.admit = func(*corev1.Pod, []*corev1.Pod) *podspec.Termination {
			return &podspec.Termination{Reason: "OutOfpods", Message: "who runs is not asked again"}
		}
		w.mu.Unlock()

		_, stop = w.start()
		defer stop()
		elapse(time.Minute) // the API server is slow
		for _, pod := range pods {
			w.add(pod)
		}
		w.source.sync()
		elapse(10 * time.Minute)
		if len(w.starts) != 20 || len(w.signals) != 0 {
			t.Errorf("the restart started %v, signalled %v", w.starts[20:], w.signals)
		}
		for uid := range pods {
			if w.told[uid].Phase != corev1.PodRunning {
				t.Errorf("pod %s: the prober was not told what was reported", uid)
			}
			if len(w.statuses[uid]) == 0 {
				t.Errorf("pod %s: nothing was reported after the restart", uid)
			}
			for _, s := range w.statuses[uid] {
				if s.Phase != corev1.PodRunning || condition(s, corev1.PodReady) != corev1.ConditionTrue || s.ContainerStatuses[0].RestartCount != 0 {
					t.Fatalf("pod %s: a worse state was reported after the restart: %+v", uid, s)
				}
			}
		}
	})
}

func TestDeletionCancelsAPull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 0)
		w.pulling = make(chan struct{})
		_, stop := w.start()
		defer stop()
		w.source.sync()
		pod := testPod("u1", func(p *corev1.Pod) { p.Spec.Containers[0].Image = "huge:1" })
		w.add(pod)
		elapse(time.Minute)
		pod = w.remove(pod, 30)
		elapse(time.Second)
		if _, done := w.finished["u1"]; !done || w.left() != "" {
			t.Errorf("a second after its deletion a pulling pod is not gone: finished %v, left %s\n%s", done, w.left(), w.log)
		}
		if n := w.count(&w.events, "Warning Failed"); n != 0 {
			t.Errorf("the cancelled pull was announced as failed: %v", w.events)
		}
		w.gone(pod)
		elapse(time.Second)
	})
}

func TestPullIsSharedAndOthersDoNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 0)
		w.pulling = make(chan struct{})
		_, stop := w.start()
		defer stop()
		w.source.sync()
		for i := range 5 {
			w.add(testPod(fmt.Sprint("pull", i), func(p *corev1.Pod) { p.Spec.Containers[0].Image = "huge:1" }))
		}
		w.add(testPod("local"))
		elapse(time.Minute)
		if w.newest("local").Phase != corev1.PodRunning {
			t.Error("a pod with a local image waits for another's pull")
		}
		close(w.pulling)
		elapse(time.Minute)
		if w.pulls != 1 {
			t.Errorf("5 pods made %d pulls of one image", w.pulls)
		}
		for i := range 5 {
			if w.newest(types.UID(fmt.Sprint("pull", i))).Phase != corev1.PodRunning {
				t.Errorf("pod %d does not run", i)
			}
		}
		want := `Normal Pulled Successfully pulled image "huge:1" in 1m0s (1m0s including waiting). Image size: 42 bytes.`
		if !slices.Contains(w.events, want) {
			t.Errorf("no event %q in %q", want, w.events)
		}
	})
}

func TestRefusedPodFailsAndGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, faults)
		w.admit = func(_ *corev1.Pod, others []*corev1.Pod) *podspec.Termination {
			if len(others) >= 2 {
				return &podspec.Termination{Reason: "OutOfpods", Message: "full"}
			}
			return nil
		}
		_, stop := w.start()
		defer stop()
		w.source.sync()
		var refused *corev1.Pod
		for i := range 3 {
			w.add(testPod(fmt.Sprint("u", i)))
		}
		elapse(5 * time.Minute)
		running := 0
		for i := range 3 {
			uid := types.UID(fmt.Sprint("u", i))
			switch s := w.newest(uid); s.Phase {
			case corev1.PodRunning:
				running++
			case corev1.PodFailed:
				refused = testPod(string(uid))
				if s.Reason != "OutOfpods" || s.Message != "Pod was rejected: full" {
					t.Errorf("refused with %q, %q", s.Reason, s.Message)
				}
			}
		}
		if running != 2 || refused == nil {
			t.Fatalf("%d of 3 pods run on a node for 2\n%s", running, w.log)
		}
		if !slices.Contains(w.events, "Warning OutOfpods full") {
			t.Errorf("no event of the refusal in %q", w.events)
		}
		w.remove(refused, 0)
		elapse(time.Minute)
		if s, ok := w.finished[refused.UID]; !ok || s.Phase != corev1.PodFailed {
			t.Errorf("the refused pod was not finished: %v %+v", ok, s)
		}
	})
}

func TestNewPodIsNotPreferredToThoseThatRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 0)
		w.admit = func(_ *corev1.Pod, others []*corev1.Pod) *podspec.Termination {
			if len(others) > 0 {
				return &podspec.Termination{Reason: "OutOfpods", Message: "full"}
			}
			return nil
		}
		_, stop := w.start()
		w.source.sync()
		old := testPod("old")
		w.add(old)
		elapse(time.Minute)
		stop()
		w.source = &source{updates: make(chan podspec.Update, 100)}
		_, stop = w.start()
		defer stop()
		w.add(testPod("new")) // the list has the new one first
		elapse(time.Second)
		w.add(old)
		w.source.sync()
		elapse(time.Minute)
		if o, n := w.newest("old"), w.newest("new"); o.Phase != corev1.PodRunning || n.Phase != corev1.PodFailed {
			t.Errorf("the old one is %s, the new one %s", o.Phase, n.Phase)
		}
	})
}

func TestCompletedPodKeepsOnlyWhatLogsNeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, faults)
		_, stop := w.start()
		defer stop()
		w.source.sync()
		w.add(testPod("u1", func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever }))
		elapse(5 * time.Minute)
		w.exit(runtime.ContainerID("u1", "app", 0), 0)
		elapse(10 * time.Minute)
		if s := w.newest("u1"); s.Phase != corev1.PodSucceeded {
			t.Errorf("phase %s", s.Phase)
		}
		if got, want := w.left(), "pod u1: sandbox false, 1 containers\nfolder of u1\n"; got != want {
			t.Errorf("left:\n%swant:\n%s%s", got, want, w.log)
		}
	})
}

func TestChangedStaticPodWaitsForItsPredecessor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, faults)
		loop, stop := w.start()
		defer stop()
		w.source.sync()
		name := func(p *corev1.Pod) { p.Name = "etcd-n1" }
		first, second := testPod("hash1", name), testPod("hash2", name)
		mirror := func(pod *corev1.Pod) *corev1.Pod {
			m := pod.DeepCopy()
			m.UID = "mirror-of-" + m.UID
			return m
		}
		w.source.updates <- podspec.Update{UID: "hash1", Pod: first, Static: true, Mirror: mirror(first)}
		elapse(time.Minute)
		if w.newest("mirror-of-hash1").Phase != corev1.PodRunning {
			t.Fatalf("the mirror shows %+v\n%s", w.newest("mirror-of-hash1"), w.log)
		}
		w.source.updates <- podspec.Update{UID: "hash1", Pod: first, Static: true, Gone: true, Mirror: mirror(first)}
		w.source.updates <- podspec.Update{UID: "hash2", Pod: second, Static: true}
		elapse(100 * time.Millisecond)
		if w.count(&w.starts, "hash2") != 0 {
			t.Error("the second began while the first was there")
		}
		elapse(5 * time.Minute)
		if w.count(&w.starts, "hash2") != 1 {
			t.Errorf("the second did not start: %v\n%s", w.starts, w.log)
		}
		if _, ok := w.finished["mirror-of-hash1"]; !ok {
			t.Error("the first one's mirror was not finished")
		}
		if views := loop.Snapshot(); len(views) != 1 {
			t.Errorf("%d entries, want one", len(views))
		}
	})
}

func TestManifestPutBackWhileItsPodEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, faults)
		_, stop := w.start()
		defer stop()
		w.source.sync()
		pod := testPod("hash", func(p *corev1.Pod) { p.Spec.Containers[0].Name = "stubborn" })
		w.source.updates <- podspec.Update{UID: "hash", Pod: pod, Static: true}
		elapse(time.Minute)
		w.source.updates <- podspec.Update{UID: "hash", Pod: pod, Static: true, Gone: true}
		elapse(5 * time.Second)
		w.source.updates <- podspec.Update{UID: "hash", Pod: pod, Static: true}
		elapse(5 * time.Minute)
		if n := w.count(&w.starts, "hash/stubborn/0"); n != 2 {
			t.Errorf("started %v, want its first attempt twice\n%s", w.starts, w.log)
		}
		if !strings.Contains(strings.Join(w.signals, " "), "killed") {
			t.Errorf("the first life was not ended: %v", w.signals)
		}
	})
}

func TestRuntimeOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 0)
		_, stop := w.start()
		defer stop()
		w.source.sync()
		w.add(testPod("u1"))
		elapse(70 * time.Second) // the pod was just looked at as it is once a minute
		before := len(w.starts)
		id := runtime.ContainerID("u1", "app", 0)
		go func() {
			time.Sleep(time.Second)
			w.exit(id, 1) // while nobody can see it
		}()
		w.cut(10 * time.Second)
		// the restart's back-off, and the pause between two tries to reach the runtime
		elapse(16 * time.Second)
		if len(w.starts) != before+1 {
			t.Errorf("the container that ended unseen was not restarted: %v\n%s", w.starts, w.log)
		}
		for _, s := range w.statuses["u1"] {
			if s.Phase != corev1.PodRunning && s.Phase != corev1.PodPending {
				t.Errorf("the outage was reported as %+v", s)
			}
		}
	})
}

func TestCrashesBackOffAndAreAnnounced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 0)
		_, stop := w.start()
		defer stop()
		w.source.sync()
		w.add(testPod("u1"))
		for attempt := range 4 {
			elapse(6 * time.Minute)
			w.exit(runtime.ContainerID("u1", "app", attempt), 1)
			elapse(time.Second)
		}
		begin := time.Now()
		for w.count(&w.starts, "") < 6 {
			elapse(time.Second)
			w.exit(runtime.ContainerID("u1", "app", w.count(&w.starts, "")-1), 1)
			if time.Since(begin) > time.Hour {
				t.Fatalf("no restarts: %v", w.starts)
			}
		}
		text := "Warning BackOff Back-off restarting failed container app in pod pod-u1_default(u1)"
		if !slices.Contains(w.events, text) {
			t.Errorf("no event %q in %q", text, w.events)
		}
	})
}

func TestVolumesAreRefreshed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 0)
		loop, stop := w.start()
		defer stop()
		w.source.sync()
		w.add(testPod("u1"))
		elapse(time.Second)
		mounts := func() int {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.volumes["u1"]["data"]
		}
		if mounts() != 1 {
			t.Fatalf("mounted %d times at first", mounts())
		}
		elapse(10 * time.Minute)
		if n := mounts(); n < 8 || n > 11 {
			t.Errorf("mounted %d times in 10 minutes, want about once a minute", n)
		}
		before := mounts()
		loop.Renew("u1", podspec.ObjectRef{Kind: "configmap", Name: "c"})
		elapse(time.Millisecond)
		if mounts() != before+1 {
			t.Error("news of a ConfigMap did not refresh the volume at once")
		}
	})
}

func TestEvictionEndsAPodAsFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, faults)
		loop, stop := w.start()
		defer stop()
		w.source.sync()
		w.add(testPod("u1"))
		elapse(time.Minute)
		if !loop.End("u1", podspec.Termination{Reason: "Evicted", Message: "The node was low on resource: memory."}) || loop.End("none", podspec.Termination{}) {
			t.Error("End does not know which pods there are")
		}
		elapse(5 * time.Minute)
		if s := w.newest("u1"); s.Phase != corev1.PodFailed || s.Reason != "Evicted" {
			t.Errorf("an evicted pod is %s, %s\n%s", s.Phase, s.Reason, w.log)
		}
	})
}

// TestEndOfAPodWhoseTaskDoesNotAnswer: the phase stays terminal when the container's record goes.
func TestEndOfAPodWhoseTaskDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 0)
		_, stop := w.start()
		defer stop()
		w.source.sync()
		pod := testPod("a")
		w.add(pod)
		elapse(10 * time.Second)
		w.mu.Lock()
		w.pods["a"].Containers[0].State = runtime.Unknown
		w.mu.Unlock()
		w.remove(pod, 5)
		elapse(time.Minute)
		if left := w.left(); left != "" {
			t.Errorf("left on the host:\n%s", left)
		}
		if phase := w.finished["a"].Phase; phase != corev1.PodFailed {
			t.Errorf("the last phase is %q", phase)
		}
		ended := false
		for _, s := range w.statuses["a"] {
			if ended && s.Phase != corev1.PodFailed {
				t.Errorf("phase %q after Failed", s.Phase)
			}
			ended = ended || s.Phase == corev1.PodFailed
		}
	})
}

// TestPodIsStoppedWhateverItHolds: what it holds cannot be found out, and it is stopped all the
// same; it is only given up when that is known.
func TestPodIsStoppedWhateverItHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 0)
		_, stop := w.start()
		defer stop()
		w.source.sync()
		pod := testPod("a")
		w.add(pod)
		elapse(10 * time.Second)
		w.setUnlisted(true)
		w.remove(pod, 5)
		elapse(time.Minute)
		if n := w.count(&w.signals, syscall.SIGTERM.String()); n != 1 {
			t.Errorf("%d stop signals", n)
		}
		if _, finished := w.finished["a"]; finished {
			t.Error("given up while nobody knows what it holds")
		}
		w.setUnlisted(false)
		elapse(time.Minute)
		if _, finished := w.finished["a"]; !finished || w.left() != "" {
			t.Errorf("finished: %v, left:\n%s", finished, w.left())
		}
	})
}

// TestChurn starts and ends many pods in all sorts of ways while a tenth of all calls fail, the
// agent is restarted and the runtime goes away, and looks whether anything is left.
func TestChurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 0.2)
		_, stop := w.start()
		w.source.sync()
		pods := map[types.UID]*corev1.Pod{}
		add := func(i int) {
			pod := testPod(fmt.Sprint("u", i), func(p *corev1.Pod) {
				if i%3 == 0 {
					p.Spec.Containers[0].Name = "stubborn"
				}
				if i%4 == 0 {
					p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{}, PostStart: &corev1.LifecycleHandler{}}
				}
				if i%5 == 0 {
					p.Spec.InitContainers = []corev1.Container{{Name: "sidecar", Image: "app:1", RestartPolicy: ptr(corev1.ContainerRestartPolicyAlways)}}
				}
			})
			pods[pod.UID] = pod
			w.add(pod)
		}
		for i := range 30 {
			add(i)
			elapse(time.Duration(w.dice(500)) * time.Millisecond)
		}
		for uid, pod := range pods {
			switch w.dice(4) {
			case 0:
				pods[uid] = w.remove(pod, 30)
			case 1:
				pods[uid] = w.remove(pod, 0)
			case 2:
				w.gone(pod)
				delete(pods, uid)
			case 3:
				w.mu.Lock()
				for _, c := range w.pod(uid).Containers {
					go w.exit(c.ID, 1)
				}
				w.mu.Unlock()
			}
			elapse(time.Duration(w.dice(1000)) * time.Millisecond)
		}
		w.cut(5 * time.Second)
		stop()
		w.source = &source{updates: make(chan podspec.Update, 100)}
		_, stop = w.start()
		defer stop()
		for _, pod := range pods {
			w.add(pod)
		}
		w.source.sync()
		elapse(time.Minute)
		for uid, pod := range pods {
			if pod.DeletionTimestamp == nil {
				pods[uid] = w.remove(pod, 10)
			}
		}
		elapse(30 * time.Minute)
		if left := w.left(); left != "" {
			t.Errorf("left at the end:\n%s", left)
		}
		for uid := range pods {
			if _, ok := w.finished[uid]; !ok {
				t.Errorf("pod %s was not finished", uid)
			}
		}
	})
}

func ptr[T any](v T) *T { return &v }
