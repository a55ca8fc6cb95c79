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

// View is what a pod's worker last saw and decided, for people and for the node's API.
type View struct {
	UID       types.UID
	Namespace string
	Name      string
	// Pod is the newest of the pod, nil when no source knows it. It is never written to.
	Pod    *corev1.Pod
	Status corev1.PodStatus
	Static bool
	// Gone says that its source has no such pod any more; it is being ended.
	Gone bool
	// Refused says that it was not admitted, or was ended by the agent: Outcome.Reason.
	Refused string
	// Plan has the actions of the last plan as text; UnderWay those that run, with how long they
	// do.
	Plan     []string
	UnderWay map[string]time.Duration
	WakeAt   time.Time
	Done     bool
	// LastError is the newest error of an action or a step, and LastErrorAt when it was; they stay
	// until the pod goes.
	LastError   string
	LastErrorAt time.Time
	SeenAt      time.Time // of the last step
}

// Synced says that every source has told of all its pods.
func (l *Loop) Synced() bool { return l.synced.Load() }

// Snapshot returns all pods, in order of namespace, name, UID.
func (l *Loop) Snapshot() []View {
	entries := l.store.all()
	views := make([]View, 0, len(entries))
	for _, e := range entries {
		views = append(views, e.look())
	}
	slices.SortFunc(views, func(a, b View) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name), strings.Compare(string(a.UID), string(b.UID)))
	})
	return views
}

// Pods returns the pods that sources know, each with the status that was last computed for it.
func (l *Loop) Pods() []*corev1.Pod {
	var pods []*corev1.Pod
	for _, v := range l.Snapshot() {
		if v.Pod != nil {
			pods = append(pods, v.WithStatus())
		}
	}
	return pods
}

// Named returns the pod of that name that its source has, with the status that was last computed
// for it; nil if there is none. An earlier pod of the name, which was deleted by force and is still
// being ended, is not it.
func (l *Loop) Named(namespace, name string) *corev1.Pod {
	for _, e := range l.store.all() {
		if v := e.look(); v.Pod != nil && !v.Gone && v.Namespace == namespace && v.Name == name {
			return v.WithStatus()
		}
	}
	return nil
}

// Pod returns one pod that a source knows, with the status that was last computed for it; nil if
// there is none.
func (l *Loop) Pod(uid types.UID) *corev1.Pod {
	e := l.store.get(uid)
	if e == nil {
		return nil
	}
	v := e.look()
	if v.Pod == nil {
		return nil
	}
	return v.WithStatus()
}

// WithStatus is a copy of the view's pod with the computed status in it.
func (v View) WithStatus() *corev1.Pod {
	pod := *v.Pod // the parts that are shared are never written to
	if !v.SeenAt.IsZero() {
		pod.Status = v.Status
	}
	return &pod
}

func (e *entry) look() View {
	e.mu.Lock()
	defer e.mu.Unlock()
	v := e.view
	v.UID, v.Namespace, v.Name = e.uid, e.ref.Namespace, e.ref.Name
	if e.known {
		v.Pod, v.Static, v.Gone = e.update.Pod, e.update.Static, e.update.Gone
	}
	return v
}

// show publishes a turn.
func (e *entry) show(t turn, plan podplan.Plan, s corev1.PodStatus) {
	texts := make([]string, 0, len(plan.Actions))
	for _, a := range plan.Actions {
		texts = append(texts, a.String())
	}
	under := make(map[string]time.Duration, len(t.work.flight))
	for key, f := range t.work.flight {
		under[key] = t.now.Sub(f.since)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.view.Status, e.view.Plan, e.view.UnderWay = s, texts, under
	e.view.WakeAt, e.view.Done, e.view.SeenAt = plan.WakeAt, plan.Done, t.now
	if t.want.Outcome != nil {
		e.view.Refused = t.want.Outcome.Reason
	}
}
