package podsync

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/keyed"
	"github.com/nodeagent/nodeagent/pkg/podsync/podplan"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/status"
)

// worker is the state of one pod's worker. Only its steps touch it.
type worker struct {
	state   podplan.State
	running map[string]runningAction // by key
	// completed and changed are what the next podplan.Step takes in.
	completed []podplan.Completed
	changed   []podspec.ObjectRef
	// ending is the pod as it was when it first had to end; from then on it never lives again under
	// this worker.
	ending *corev1.Pod
	// frozen is nil before the plan first says Stopped.
	frozen  *frozen
	stopped bool
	// messages are the termination messages of the containers by id, each read once.
	messages  map[string]string
	refresh   time.Time           // next refresh of volumes; zero: none is planned
	waiting   map[string]string   // reason of each waiting container, for BackOff events
	announced podplan.ResizeState // as of the last events
}

// frozen is what was observed and known of a pod when its plan first said Stopped. Its status is
// made from that: what is removed from then on, and forgotten with it, does not change it.
type frozen struct {
	observed podplan.Observed
	state    podplan.State
}

func (w *worker) reset() {
	*w = worker{running: make(map[string]runningAction), messages: make(map[string]string), waiting: make(map[string]string)}
}

// step is what one step of a worker knows.
type step struct {
	*entry
	inbox inbox
	want  podplan.Want
	rt    runtime.Pod
	now   time.Time
}

// step takes a pod one step. It reads the runtime's cache and, for a pod that has stopped, the
// host's folders; it never waits for an action.
func (l *Loop) step(ctx context.Context, uid types.UID) (keyed.Next, error) {
	e := l.store.get(uid)
	if e == nil {
		return keyed.Next{Done: true}, nil
	}
	defer l.alive()
	now := l.config.Now()
	in := e.take()
	for _, r := range in.results {
		l.complete(e, r, now)
	}
	e.worker.change(in)
	if !in.known && !l.synced.Load() {
		return keyed.Next{}, nil // awaitSync wakes it
	}
	if l.mustWait(e, in) {
		return keyed.Next{At: now.Add(time.Second)}, nil
	}
	rt, err := l.config.Pods.Get(ctx, uid)
	if err != nil {
		return keyed.Next{}, fmt.Errorf("asking the runtime about pod %q: %w", uid, err)
	}
	want, ready := l.want(e, &in, rt, now)
	if !ready {
		return keyed.Next{}, nil // awaitSync wakes it
	}
	return l.proceed(ctx, step{entry: e, inbox: in, want: want, rt: rt, now: now})
}

// change keeps which objects have changed, for the next plan and for the running actions.
func (w *worker) change(in inbox) {
	if len(in.changed) == 0 || !in.known {
		return
	}
	w.changed = append(w.changed, in.changed...)
	for key, r := range w.running {
		r.changed = append(r.changed, in.changed...)
		w.running[key] = r
	}
}

// proceed plans, acts and reports.
func (l *Loop) proceed(ctx context.Context, t step) (keyed.Next, error) {
	w := &t.worker
	observed, err := l.observe(ctx, t)
	if err != nil {
		return keyed.Next{}, err
	}
	view, plan := l.plan(t, observed)
	if plan.Stopped && !w.stopped {
		w.stopped = true // from now on its claims are observed
		if observed, err = l.observe(ctx, t); err != nil {
			return keyed.Next{}, err
		}
		view, plan = l.plan(t, observed)
	}
	t.want.Pod = view.Pod
	if !w.state.TerminatingSince.IsZero() {
		l.cancelForEnd(t)
	}
	for _, a := range plan.Actions {
		l.launch(t, a)
	}
	if plan.Stopped {
		l.retryDeferred(t.entry)
		if w.frozen == nil {
			w.frozen = &frozen{observed, w.state}
		}
	}
	state := w.state
	if w.frozen != nil {
		observed, state = w.frozen.observed, w.frozen.state
		view = podplan.View(t.want, state, observed, t.now)
	}
	over := plan.Done && len(w.running) == 0
	s := corev1.PodStatus{}
	if t.want.Pod != nil {
		s = status.Pod(t.want, state, observed, view, t.now)
		l.report(t, s, plan.Hold, over)
	}
	t.publish(t, plan, s)
	if over {
		return l.done(t), nil
	}
	return keyed.Next{At: l.nextStep(t, plan)}, nil
}

// plan takes the pod's state one step. While it decides on the resources that one pod requests, it
// decides on no other's and admits no new pod.
func (l *Loop) plan(t step, o podplan.Observed) (podplan.PodView, podplan.Plan) {
	w := &t.worker
	o.Completed, o.Changed = w.completed, w.changed
	if pod := t.want.Pod; pod != nil {
		resize := w.state.Resize
		if resize.Allocated == nil {
			resize = podplan.RecallResize(t.want, t.rt)
			w.announced = resize // an earlier life of the agent announced this
		}
		if resize.Requested(pod) && !t.want.Static {
			l.store.admission.Lock()
			defer l.store.admission.Unlock()
			headroom := l.headroom(t.entry, pod)
			o.Headroom = &headroom
		}
	}
	var view podplan.PodView
	var plan podplan.Plan
	w.state, view, plan = podplan.Step(t.want, w.state, o, t.now)
	w.completed, w.changed = nil, nil
	if view.Pod != nil && t.allocate(view.Pod, w.state.Resize.Pending.Reason == corev1.PodReasonDeferred) {
		l.retryDeferred(t.entry)
	}
	return view, plan
}

// done ends a worker when the host holds nothing of its pod. The entry stays until the source says
// that the pod is gone.
func (l *Loop) done(t step) keyed.Next {
	l.config.Prober.Forget(t.uid)
	u := t.inbox.update
	if t.inbox.known && !u.Gone && u.Static && t.worker.ending != nil && u.Pod.DeletionTimestamp == nil {
		t.restart() // its manifest was put back while it ended
		return keyed.Next{At: t.now}
	}
	if t.inbox.known && !u.Gone {
		return keyed.Next{Done: true}
	}
	if !l.store.drop(t.entry) {
		return keyed.Next{At: t.now}
	}
	if t.inbox.known && !u.Static {
		l.config.Sink.Forget(t.uid)
	}
	l.retryDeferred(t.entry)
	l.config.Log.Info("Pod is gone", "pod", t.inbox.ref.Namespace+"/"+t.inbox.ref.Name, "uid", t.uid)
	for _, other := range l.store.sameName(t.entry) {
		l.workers.Wake(other.uid)
	}
	return keyed.Next{Done: true}
}

// report hands the status to the sink where there is an API object. over says that the host holds
// nothing of the pod.
func (l *Loop) report(t step, s corev1.PodStatus, hold, over bool) {
	l.announceBackOffs(t, s)
	l.announceResize(t)
	u := t.inbox.update
	object := u.Object()
	switch {
	case object == nil:
	case over && (u.Gone || !u.Static && object.DeletionTimestamp != nil):
		l.config.Sink.Finish(object, s)
	case hold:
		l.config.Sink.Hold(object, s)
	default:
		l.config.Sink.Put(object, s)
	}
}

// mustWait holds a static pod back while the host still has another one of its name: they share
// host ports and hostPath locks, and cannot run side by side.
func (l *Loop) mustWait(e *entry, in inbox) bool {
	if !in.known || !in.update.Static || len(e.worker.running) > 0 {
		return false
	}
	for _, other := range l.store.sameName(e) {
		if other.order < e.order && other.isStatic() {
			return true
		}
	}
	return false
}

func (e *entry) isStatic() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	// An entry that only the host knows may be a static pod of before the agent's restart.
	return !e.known || e.update.Static
}

// want says what is wanted of the pod now; false when nobody can know that yet.
func (l *Loop) want(e *entry, in *inbox, rt runtime.Pod, now time.Time) (podplan.Want, bool) {
	want := podplan.Want{UID: e.uid, Termination: in.ended, HostIPs: l.config.HostIPs(), Static: in.update.Static, CrashMax: l.config.CrashMax}
	if !in.known {
		return want, true
	}
	if object := in.update.Object(); object != nil {
		want.Reported = object.Status
	} else if !in.update.Static {
		want.Reported = in.update.Pod.Status
	}
	want.Pod = l.wantedPod(e, in.update, now)
	if in.admitted || in.ended != nil || e.worker.ending != nil {
		return want, true
	}
	if !rt.Empty() || podspec.Terminal(in.update.Pod.Status.Phase) || want.Reported.Phase == corev1.PodRunning {
		e.admit() // an earlier life of the agent admitted it
		return want, true
	}
	if !in.update.Static && !l.synced.Load() {
		return want, false // pods that run already count first
	}
	if o := l.admission(e, want.Pod); o != nil {
		in.ended, want.Termination = o, o
	}
	return want, true
}

// wantedPod is the pod with its deletion, once there is one: a pod that its source no longer has
// ends with its own grace.
func (l *Loop) wantedPod(e *entry, u podspec.Update, now time.Time) *corev1.Pod {
	pod := u.Pod
	if u.Gone && pod.DeletionTimestamp == nil {
		pod = pod.DeepCopy()
		at := metav1.NewTime(now)
		if old := e.worker.ending; old != nil {
			at = *old.DeletionTimestamp
		}
		pod.DeletionTimestamp = &at
		pod.DeletionGracePeriodSeconds = pod.Spec.TerminationGracePeriodSeconds
	}
	if pod.DeletionTimestamp != nil {
		e.worker.ending = pod
	} else if e.worker.ending != nil {
		pod = e.worker.ending // it came back while it ended: the end comes first
	}
	return pod
}

// admission asks whether the pod may run, and takes its resources if so.
func (l *Loop) admission(e *entry, pod *corev1.Pod) *podspec.Termination {
	l.store.admission.Lock()
	defer l.store.admission.Unlock()
	o := l.config.Admit(pod, l.store.admittedPods(e))
	if o == nil {
		e.admit()
		return nil
	}
	l.config.Events.Event(podspec.Reference(pod), corev1.EventTypeWarning, o.Reason, o.Message)
	l.config.Log.Info("Pod refused", "pod", pod.Namespace+"/"+pod.Name, "uid", pod.UID, "reason", o.Reason, "message", o.Message)
	refused := *o
	refused.Message = "Pod was rejected: " + o.Message
	e.end(refused)
	return &refused
}

func isEnding(want podplan.Want) bool {
	return want.Pod == nil || want.Pod.DeletionTimestamp != nil || want.Termination != nil
}

// observe gathers what the host has of the pod.
func (l *Loop) observe(ctx context.Context, t step) (podplan.Observed, error) {
	w := &t.worker
	o := podplan.Observed{
		Runtime: t.rt, Running: make(map[string]bool, len(w.running)),
		Probes: make(map[string]podspec.Probes), Messages: make(map[string]string),
	}
	for key := range w.running {
		o.Running[key] = true
	}
	if t.want.Pod != nil {
		reported := *t.want.Pod
		reported.Status = t.want.Reported
		l.config.Prober.Sync(&reported, t.rt)
	}
	for _, c := range t.rt.Containers {
		o.Probes[c.ID] = l.config.Prober.Results(c.ID)
		if _, read := w.messages[c.ID]; !read && c.State == runtime.Exited && t.want.Pod != nil {
			w.messages[c.ID] = l.message(ctx, t.want.Pod, c)
		}
		if m := w.messages[c.ID]; m != "" {
			o.Messages[c.ID] = m
		}
	}
	maps.DeleteFunc(w.messages, func(id, _ string) bool {
		return !slices.ContainsFunc(t.rt.Containers, func(c runtime.Container) bool { return c.ID == id })
	})
	if !w.stopped { // an error must not keep the pod from being stopped
		return o, nil
	}
	var err error
	o.Held, err = l.config.Executor.held(ctx, t.name())
	return o, err
}

// The bounds of termination messages: of one container, and of a whole pod, shared evenly; as in
// kubelet.
const (
	maxMessage    = 4096
	maxPodMessage = 12 << 10
)

// message reads an exited container's termination message.
func (l *Loop) message(ctx context.Context, pod *corev1.Pod, c runtime.Container) string {
	count := 0
	for range podspec.Containers(pod) {
		count++
	}
	policy := corev1.TerminationMessageReadFile
	if spec, _ := podspec.Find(pod, c.Name); spec != nil {
		policy = spec.TerminationMessagePolicy
	}
	return l.config.Messages.Message(ctx, c, policy, min(maxMessage, maxPodMessage/max(1, count)))
}

// nextStep is when the worker steps without an event.
func (l *Loop) nextStep(t step, plan podplan.Plan) time.Time {
	at := t.now.Add(jittered(l.config.SyncFrequency, t.uid))
	for _, other := range []time.Time{plan.WakeAt, l.planRefresh(t)} {
		if !other.IsZero() && other.Before(at) {
			at = other
		}
	}
	return at
}

// jittered makes an interval up to a fifth longer, by a share that is the pod's own, so that not
// all pods step at the same time.
func jittered(d time.Duration, uid types.UID) time.Duration {
	h := fnv.New32a()
	_, _ = h.Write([]byte(uid))
	return d + time.Duration(int64(d)/5*int64(h.Sum32()%1000)/1000)
}

// complete takes the result of an action.
func (l *Loop) complete(e *entry, r result, now time.Time) {
	running, runs := e.worker.running[r.key]
	if !runs {
		return // of an earlier life
	}
	running.cancel()
	delete(e.worker.running, r.key)
	if r.action == nil {
		if r.Err != nil {
			e.fail(fmt.Errorf("refreshing volumes: %w", r.Err))
		}
		return
	}
	e.worker.completed = append(e.worker.completed, podplan.Completed{Action: r.action, ActionResult: r.ActionResult, Changed: running.changed})
	if l.config.OnAction != nil {
		l.config.OnAction(running.policy.Operation, r.took, r.Err)
	}
	log := l.config.Log.With("pod", e.name().Namespace+"/"+e.name().Name, "uid", e.uid, "action", r.action.String(), "took", r.took)
	switch {
	case r.Err == nil:
		log.Info("Pod action completed")
	case errors.Is(r.Err, context.Canceled):
		log.Info("Pod action cancelled")
	default:
		log.Warn("Pod action failed", "err", r.Err)
		e.fail(fmt.Errorf("%s: %w", r.action, r.Err))
	}
}
