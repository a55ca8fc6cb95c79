package report

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Endpoints learns from this node itself which of its pods are ready, ahead of the API server.
type Endpoints interface {
	// MarkUnready says whether the pod must get no new connections.
	MarkUnready(uid types.UID, unready bool)
	// PodGone says that the pod's object is gone.
	PodGone(uid types.UID)
}

// Sink takes the statuses of pods, as podsync.StatusSink has it.
type Sink interface {
	Put(pod *corev1.Pod, s corev1.PodStatus)
	Hold(pod *corev1.Pod, s corev1.PodStatus)
	Finish(pod *corev1.Pod, s corev1.PodStatus)
	Forget(uid types.UID)
}

// Local is a Sink that tells the services half of this node which pods are ready, on the way of
// their statuses to the API.
type Local struct {
	Sink
	Endpoints Endpoints
}

// Put implements Sink.
func (l Local) Put(pod *corev1.Pod, s corev1.PodStatus) {
	l.Endpoints.MarkUnready(pod.UID, pod.DeletionTimestamp != nil || !isReady(s))
	l.Sink.Put(pod, s)
}

// Hold implements Sink.
func (l Local) Hold(pod *corev1.Pod, s corev1.PodStatus) {
	l.Endpoints.MarkUnready(pod.UID, !isReady(s))
	l.Sink.Hold(pod, s)
}

// Finish implements Sink.
func (l Local) Finish(pod *corev1.Pod, s corev1.PodStatus) {
	l.Endpoints.MarkUnready(pod.UID, true)
	l.Sink.Finish(pod, s)
}

// Forget implements Sink.
func (l Local) Forget(uid types.UID) {
	l.Endpoints.PodGone(uid)
	l.Sink.Forget(uid)
}

func isReady(s corev1.PodStatus) bool {
	for _, c := range s.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
