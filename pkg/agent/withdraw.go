package agent

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/podsync"
	"github.com/nodeagent/nodeagent/pkg/proxier"
)

// statuses is where the loop's statuses go: to the API, and to the services half, which need not
// wait for the API to tell it that a pod of this very node is not ready.
func (p *pods) statuses() podsync.StatusSink {
	if !p.config.Proxy.LocalEndpoints {
		return p.sink
	}
	return withdrawing{StatusSink: p.sink, tracker: func() *proxier.Tracker {
		if p.agent.services == nil {
			return nil
		}
		return p.agent.services.tracker
	}}
}

// withdrawing tells the services half of pods that are not to be used, on the way of their
// statuses to the API.
type withdrawing struct {
	podsync.StatusSink
	tracker func() *proxier.Tracker // made after the pods half; nil: there is none
}

// Put implements podsync.StatusSink.
func (w withdrawing) Put(object *corev1.Pod, s corev1.PodStatus) {
	w.withdraw(object.UID, object.DeletionTimestamp != nil || !isReady(s))
	w.StatusSink.Put(object, s)
}

// Hold implements podsync.StatusSink.
func (w withdrawing) Hold(object *corev1.Pod, s corev1.PodStatus) {
	w.withdraw(object.UID, !isReady(s))
	w.StatusSink.Hold(object, s)
}

// Finish implements podsync.StatusSink.
func (w withdrawing) Finish(object *corev1.Pod, s corev1.PodStatus) {
	w.withdraw(object.UID, true)
	w.StatusSink.Finish(object, s)
}

// Forget implements podsync.StatusSink.
func (w withdrawing) Forget(uid types.UID) {
	if t := w.tracker(); t != nil {
		t.PodGone(uid)
	}
	w.StatusSink.Forget(uid)
}

func (w withdrawing) withdraw(uid types.UID, unready bool) {
	if t := w.tracker(); t != nil {
		t.Withdraw(uid, unready)
	}
}

func isReady(s corev1.PodStatus) bool {
	for _, c := range s.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
