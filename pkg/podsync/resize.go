package podsync

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"

	"github.com/nodeagent/nodeagent/pkg/podsync/podplan"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
)

// allocate makes the wanted pod one with the resources that it was given, and gives it what it asks
// for where there is room. While one pod's ask is weighed nobody else's is, nor is a new pod
// admitted.
func (l *Loop) allocate(t *turn) {
	m, pod := &t.work.memory, t.want.Pod
	if pod == nil {
		return
	}
	first := m.Resize.Given == nil
	want := m.Allocate(t.want, t.rt, nil)
	if first {
		t.work.resize = m.Resize // what an earlier life of the agent told is not told again
	}
	if m.Resize.Asks(pod) {
		l.store.admission.Lock()
		defer l.store.admission.Unlock()
		room := podplan.Room{Allocatable: l.config.Allocatable(), Used: l.store.used(t.entry)}
		for _, before := range l.store.waitingBefore(t.entry, pod) {
			room.Reserve(before.given, before.asks)
		}
		want = m.Allocate(t.want, t.rt, &room)
	}
	t.want = want
	if t.keep(want.Pod, m.Resize.Pending.Reason == corev1.PodReasonDeferred) {
		l.retryDeferred(t.entry)
	}
}

// used is what the other pods were given.
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

// waiting is a pod that asks for more than there was room for.
type waiting struct{ given, asks *corev1.Pod }

// waitingBefore are the pods whose turn comes before this one's: by priority, then class, then who
// asked first.
func (s *store) waitingBefore(e *entry, pod *corev1.Pod) []waiting {
	var list []waiting
	for _, other := range s.all() {
		if other == e {
			continue
		}
		other.mu.Lock()
		if other.deferred && other.given != nil && podplan.ResizesBefore(other.update.Pod, pod) {
			list = append(list, waiting{other.given, other.update.Pod})
		}
		other.mu.Unlock()
	}
	slices.SortFunc(list, func(a, b waiting) int {
		if podplan.ResizesBefore(a.asks, b.asks) {
			return -1
		}
		return 1
	})
	return list
}

// keep notes what the pod was given, and says whether that is less than before.
func (e *entry) keep(given *corev1.Pod, deferred bool) (less bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.given != nil && e.given != given {
		before := resource.PodRequests(e.given, resource.PodResourcesOptions{})
		for name, q := range resource.PodRequests(given, resource.PodResourcesOptions{}) {
			old := before[name]
			less = less || q.Cmp(old) < 0
		}
	}
	e.given, e.deferred = given, deferred
	return less
}

// retryDeferred has the pods looked at that ask for more than there was room for: some has come
// free.
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

// announceResize tells of each step of a resize since the last turn, in kubelet's words.
func (l *Loop) announceResize(t turn) {
	was, is := t.work.resize, t.work.memory.Resize
	t.work.resize = is
	asks := t.mail.update.Pod
	tell := func(kind, reason, prefix string, pod *corev1.Pod, generation int64, problem string) {
		l.config.Events.Event(podspec.Reference(pod), kind, reason, podplan.ResizeMessage(prefix, pod, generation, problem))
	}
	if is.Generation != was.Generation {
		tell(corev1.EventTypeNormal, "ResizeStarted", "Pod resize started", t.want.Pod, is.Generation, "")
	}
	if p := is.Pending; p.Reason != "" && (p.Reason != was.Pending.Reason || p.Generation != was.Pending.Generation) {
		tell(corev1.EventTypeWarning, "Resize"+p.Reason, "Pod resize "+p.Reason, asks, p.Generation, p.Message)
	}
	if f := is.Failure; f.Count > 0 && (f.Message != was.Failure.Message || is.Generation != was.Generation) {
		tell(corev1.EventTypeWarning, "ResizeError", "Pod resize error", t.want.Pod, is.Generation, f.Message)
	}
	if is.Generation != 0 && !is.InProgress() && (was.InProgress() || is.Generation != was.Generation) {
		tell(corev1.EventTypeNormal, "ResizeCompleted", "Pod resize completed", t.want.Pod, is.Generation, "")
	}
}
