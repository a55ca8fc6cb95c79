package podsync_test

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
)

// asking is a pod that requests this much CPU.
func asking(uid, cpu string, priority int32) *corev1.Pod {
	return testPod(uid, func(p *corev1.Pod) {
		p.Generation = 1
		p.Spec.Priority = &priority
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}
	})
}

// resized is the pod as its source has it after a resize, with the status that was reported.
func (w *world) resized(pod *corev1.Pod, cpu string) *corev1.Pod {
	pod = pod.DeepCopy()
	pod.Generation++
	pod.Status = w.newest(pod.UID)
	pod.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse(cpu)
	w.add(pod)
	return pod
}

func (w *world) resizesOf(uid string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var own []string
	for _, r := range w.resizes {
		if !strings.HasPrefix(r, "container") {
			own = append(own, strings.ReplaceAll(r, " "+uid, ""))
		} else {
			own = append(own, r)
		}
	}
	return strings.Join(slices.Compact(own), ", ") // a step that failed may be done again
}

func resizeEvents(w *world) int {
	return w.count(&w.events, "Normal Resize") + w.count(&w.events, "Warning Resize")
}

func TestResizeIsCarriedOutAndTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, faults)
		_, stop := w.start()
		w.source.sync()
		pod := asking("u1", "100m", 0)
		w.add(pod)
		elapse(5 * time.Minute)
		pod = w.resized(pod, "200m")
		elapse(5 * time.Minute)
		if got := w.resizesOf("u1"); got != "widen, container app requests.cpu=200m, narrow" {
			t.Errorf("steps: %s\n%s", got, w.log)
		}
		s := w.newest("u1")
		if condition(s, corev1.PodResizeInProgress) != "" || s.ObservedGeneration != 2 || s.ContainerStatuses[0].RestartCount != 0 ||
			s.ContainerStatuses[0].AllocatedResources.Cpu().String() != "200m" || s.ContainerStatuses[0].Resources.Requests.Cpu().String() != "200m" {
			t.Errorf("status: %+v", s)
		}
		for _, reason := range []string{"ResizeStarted", "ResizeCompleted"} {
			if n := w.count(&w.events, "Normal "+reason+" Pod resize "); n != 1 {
				t.Errorf("%d events %s:\n%s", n, reason, strings.Join(w.events, "\n"))
			}
		}
		stop()
		events, steps := resizeEvents(w), len(w.resizes)
		_, stop = w.start() // a new agent finds nothing to do
		defer stop()
		pod = pod.DeepCopy()
		pod.Status = w.newest("u1")
		w.add(pod)
		elapse(5 * time.Minute)
		if len(w.resizes) != steps || resizeEvents(w) != events {
			t.Errorf("after a restart: %v, %v", w.resizes[steps:], w.events)
		}
	})
}

func TestDeferredResizesTakeTheirTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 0)
		w.allocatable = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("1Gi")}
		_, stop := w.start()
		defer stop()
		w.source.sync()
		filler, low, high := asking("filler", "700m", 0), asking("low", "100m", 1), asking("high", "100m", 2)
		for _, p := range []*corev1.Pod{filler, low, high} {
			w.add(p)
		}
		elapse(time.Minute)
		low = w.resized(low, "400m")
		elapse(10 * time.Second)
		high = w.resized(high, "400m")
		elapse(10 * time.Second)
		for _, p := range []*corev1.Pod{low, high} {
			s := w.newest(p.UID)
			if condition(s, corev1.PodResizePending) != corev1.ConditionTrue || s.ContainerStatuses[0].AllocatedResources.Cpu().String() != "100m" {
				t.Errorf("%s: %+v", p.UID, s)
			}
		}
		if n := w.count(&w.events, "Warning ResizeDeferred Pod resize Deferred: "); n != 2 {
			t.Errorf("%d events:\n%s", n, strings.Join(w.events, "\n"))
		}
		filler = w.resized(filler, "450m") // room for one of them
		elapse(10 * time.Second)
		if s := w.newest("high"); condition(s, corev1.PodResizePending) != "" || s.ContainerStatuses[0].AllocatedResources.Cpu().String() != "400m" {
			t.Errorf("the pod of higher priority: %+v\n%s", s, w.log)
		}
		if s := w.newest("low"); condition(s, corev1.PodResizePending) != corev1.ConditionTrue {
			t.Errorf("the pod of lower priority: %+v", s)
		}
		filler = w.remove(filler, 1)
		w.gone(filler)
		elapse(10 * time.Second)
		if s := w.newest("low"); condition(s, corev1.PodResizePending) != "" || condition(s, corev1.PodResizeInProgress) != "" {
			t.Errorf("when there is room for all: %+v\n%s", s, w.log)
		}
		w.resized(high, "2")
		elapse(10 * time.Second)
		if n := w.count(&w.events, "Warning ResizeInfeasible Pod resize Infeasible: "); n != 1 {
			t.Errorf("%d events:\n%s", n, strings.Join(w.events, "\n"))
		}
	})
}

// What one pod waits for is not given to a new one that asks for less, nor counted as taken by the
// one that waits.
func TestWaitingResizeTakesNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 0)
		w.allocatable = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("1Gi")}
		var counted string
		w.admit = func(_ *corev1.Pod, others []*corev1.Pod) *podspec.Termination {
			for _, o := range others {
				counted += string(o.UID) + "=" + o.Spec.Containers[0].Resources.Requests.Cpu().String() + " "
			}
			return nil
		}
		_, stop := w.start()
		defer stop()
		w.source.sync()
		pod := asking("u1", "100m", 0)
		w.add(pod)
		elapse(time.Minute)
		w.resized(pod, "3")
		elapse(time.Minute)
		w.add(asking("u2", "900m", 0))
		elapse(time.Minute)
		if counted != "u1=100m " {
			t.Errorf("the new pod was held against %s", counted)
		}
	})
}
