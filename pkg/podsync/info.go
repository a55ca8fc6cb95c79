package podsync

import (
	"cmp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/podsync/podplan"
)

// PodInfo is what a pod's worker last observed and decided, for people and for the node's API.
type PodInfo struct {
	UID       types.UID
	Namespace string
	Name      string
	// Pod is the newest that its source has; nil when no source knows it. It is never written to.
	Pod    *corev1.Pod
	Status corev1.PodStatus
	Static bool
	// Gone says that its source no longer has it and that it ends.
	Gone bool
	// Refused is the reason why it was not admitted or why the agent ended it.
	Refused string
	// Plan has the actions of the last plan as text; Running the keys of the running ones, with how
	// long they have been running.
	Plan    []string
	Running map[string]time.Duration
	WakeAt  time.Time
	Done    bool
	// LastError is the newest error of an action or a step; it stays until the pod goes.
	LastError string
	StepAt    time.Time // of the last step
}

// Synced says that every source has emitted all its pods.
func (l *Loop) Synced() bool { return l.synced.Load() }

// Snapshot returns all pods, in order of namespace, name, UID.
func (l *Loop) Snapshot() []PodInfo {
	entries := l.store.all()
	infos := make([]PodInfo, 0, len(entries))
	for _, e := range entries {
		infos = append(infos, e.snapshot())
	}
	slices.SortFunc(infos, func(a, b PodInfo) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name), strings.Compare(string(a.UID), string(b.UID)))
	})
	return infos
}

// Pods returns the pods that sources have, each with its newest status.
func (l *Loop) Pods() []*corev1.Pod {
	var pods []*corev1.Pod
	for _, v := range l.Snapshot() {
		if v.Pod != nil && !v.Gone {
			pods = append(pods, v.WithStatus())
		}
	}
	return pods
}

// Named returns the pod of that name that its source has, with its newest status; nil if there is
// none. It never returns an earlier pod of the name that was deleted by force and still ends.
func (l *Loop) Named(namespace, name string) *corev1.Pod {
	for _, e := range l.store.all() {
		if v := e.snapshot(); v.Pod != nil && !v.Gone && v.Namespace == namespace && v.Name == name {
			return v.WithStatus()
		}
	}
	return nil
}

// WithStatus is a copy of the pod with its newest status.
func (v PodInfo) WithStatus() *corev1.Pod {
	pod := *v.Pod // nobody writes to the parts that they share
	if !v.StepAt.IsZero() {
		pod.Status = v.Status
	}
	return &pod
}

func (e *entry) snapshot() PodInfo {
	e.mu.Lock()
	defer e.mu.Unlock()
	v := e.info
	v.UID, v.Namespace, v.Name = e.uid, e.ref.Namespace, e.ref.Name
	if e.known {
		v.Pod, v.Static, v.Gone = e.update.Pod, e.update.Static, e.update.Gone
	}
	return v
}

// publish keeps what a step observed and decided, for Snapshot.
func (e *entry) publish(t step, plan podplan.Plan, s corev1.PodStatus) {
	texts := make([]string, 0, len(plan.Actions))
	for _, a := range plan.Actions {
		texts = append(texts, a.String())
	}
	running := make(map[string]time.Duration, len(t.worker.running))
	for key, r := range t.worker.running {
		running[key] = t.now.Sub(r.since)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.info.Status, e.info.Plan, e.info.Running = s, texts, running
	e.info.WakeAt, e.info.Done, e.info.StepAt = plan.WakeAt, plan.Done, t.now
	if t.want.Termination != nil {
		e.info.Refused = t.want.Termination.Reason
	}
}
