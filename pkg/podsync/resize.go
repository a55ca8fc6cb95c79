package podsync

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"

	"github.com/nodeagent/nodeagent/pkg/podsync/podplan"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
)

// headroom is what the node has for a pod: what it has allocated to no other, and no pod waits for
// that comes first.
func (l *Loop) headroom(e *entry, pod *corev1.Pod) podplan.Headroom {
	h := podplan.Headroom{Allocatable: l.config.Allocatable(), Used: l.store.used(e)}
	for _, before := range l.store.waitingBefore(e, pod) {
		h.Reserve(before.allocated, before.requests)
	}
	return h
}

// used is what the other pods were allocated.
func (s *store) used(e *entry) corev1.ResourceList {
	used := corev1.ResourceList{}
	for _, other := range s.admittedPods(e) {
		for name, q := range resource.PodRequests(other, resource.PodResourcesOptions{}) {
			sum := used[name]
			sum.Add(q)
			used[name] = sum
		}
	}
	return used
}

// waiting is a pod that requests more than the node has.
type waiting struct{ allocated, requests *corev1.Pod }

// waitingBefore are the waiting pods that come before this one: by priority, then class, then who
// requested first.
func (s *store) waitingBefore(e *entry, pod *corev1.Pod) []waiting {
	var list []waiting
	for _, other := range s.all() {
		if other == e {
			continue
		}
		other.mu.Lock()
		if other.deferred && other.allocated != nil && podplan.ResizesBefore(other.update.Pod, pod) {
			list = append(list, waiting{other.allocated, other.update.Pod})
		}
		other.mu.Unlock()
	}
	slices.SortFunc(list, func(a, b waiting) int {
		if podplan.ResizesBefore(a.requests, b.requests) {
			return -1
		}
		return 1
	})
	return list
}

// allocate keeps what the pod was allocated, and says whether that is less than before.
func (e *entry) allocate(pod *corev1.Pod, deferred bool) (less bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.allocated != nil && e.allocated != pod {
		before := resource.PodRequests(e.allocated, resource.PodResourcesOptions{})
		for name, q := range resource.PodRequests(pod, resource.PodResourcesOptions{}) {
			old := before[name]
			less = less || q.Cmp(old) < 0
		}
	}
	e.allocated, e.deferred = pod, deferred
	return less
}

// retryDeferred wakes the pods that request more than the node had: some resources have come free.
func (l *Loop) retryDeferred(by *entry) {
	for _, e := range l.store.all() {
		e.mu.Lock()
		wake := e != by && e.deferred
		e.mu.Unlock()
		if wake {
			l.workers.Wake(e.uid)
		}
	}
}

// announceResize announces how far a resize has come since the last step, in kubelet's words.
func (l *Loop) announceResize(t step) {
	was, is := t.worker.announced, t.worker.state.Resize
	t.worker.announced = is
	requested := t.inbox.update.Pod
	announce := func(kind, reason, prefix string, pod *corev1.Pod, generation int64, problem string) {
		l.config.Events.Event(podspec.Reference(pod), kind, reason, podplan.ResizeMessage(prefix, pod, generation, problem))
	}
	if is.Generation != was.Generation {
		announce(corev1.EventTypeNormal, "ResizeStarted", "Pod resize started", t.want.Pod, is.Generation, "")
	}
	if p := is.Pending; p.Reason != "" && (p.Reason != was.Pending.Reason || p.Generation != was.Pending.Generation) {
		announce(corev1.EventTypeWarning, "Resize"+p.Reason, "Pod resize "+p.Reason, requested, p.Generation, p.Message)
	}
	if f := is.Failure; f.Count > 0 && (f.Message != was.Failure.Message || is.Generation != was.Generation) {
		announce(corev1.EventTypeWarning, "ResizeError", "Pod resize error", t.want.Pod, is.Generation, f.Message)
	}
	if is.Generation != 0 && !is.InProgress() && (was.InProgress() || is.Generation != was.Generation) {
		announce(corev1.EventTypeNormal, "ResizeCompleted", "Pod resize completed", t.want.Pod, is.Generation, "")
	}
}
