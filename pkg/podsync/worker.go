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

// work is the state of one pod's worker. Only its steps touch it.
type work struct {
	memory podplan.Memory
	flight map[string]flight // actions under way, by key
	// ending is the pod as it was when its end was first wanted; from then on it never lives again
	// under this worker.
	ending *corev1.Pod
	// frozen is what was observed when the plan first said Stopped.
	frozen  *podplan.Have
	stopped bool
	// termination messages of the containers that there are, by id, each read once
	messages map[string]string
	refresh  time.Time           // next refresh of volumes; zero: none is planned
	waiting  map[string]string   // reason of each waiting container, for BackOff events
	resize   podplan.ResizeState // as events were last told of it
}

// flight is one action under way.
type flight struct {
	action podplan.Action // nil: a refresh of volumes
	cancel context.CancelFunc
	since  time.Time
	news   []podspec.ObjectRef // that came meanwhile, which it may have missed
}

func (w *work) reset() {
	*w = work{flight: make(map[string]flight), messages: make(map[string]string), waiting: make(map[string]string)}
}

// step is one turn of a pod's worker. It waits for nothing but the runtime's memory.
func (l *Loop) step(ctx context.Context, uid types.UID) (keyed.Next, error) {
	e := l.store.get(uid)
	if e == nil {
		return keyed.Next{Done: true}, nil
	}
	defer l.alive()
	now := l.config.Now()
	m := e.take()
	for _, r := range m.results {
		l.settle(e, r, now)
	}
	e.work.renew(m)
	if !m.known && !l.synced.Load() {
		return keyed.Next{}, nil // woken when every source has synced
	}
	if l.mustWait(e, m) {
		return keyed.Next{At: now.Add(time.Second)}, nil
	}
	have, err := l.config.Pods.Get(ctx, uid)
	if err != nil {
		return keyed.Next{}, fmt.Errorf("asking the runtime about pod %q: %w", uid, err)
	}
	want, ready := l.want(e, &m, have, now)
	if !ready {
		return keyed.Next{}, nil // woken when every source has synced
	}
	return l.proceed(ctx, turn{entry: e, mail: m, want: want, rt: have, now: now})
}

// renew has what failed for want of an object that has changed tried again at once.
func (w *work) renew(m mail) {
	if len(m.news) == 0 || !m.known {
		return
	}
	w.memory.Renew(m.update.Pod, m.news)
	for key, f := range w.flight {
		f.news = append(f.news, m.news...)
		w.flight[key] = f
	}
}

// turn is what one step of a worker knows.
type turn struct {
	*entry
	mail mail
	want podplan.Want
	rt   runtime.Pod
	now  time.Time
}

// proceed plans, acts and reports.
func (l *Loop) proceed(ctx context.Context, t turn) (keyed.Next, error) {
	w := &t.work
	l.allocate(&t)
	have, err := l.observe(ctx, t)
	if err != nil {
		return keyed.Next{}, err
	}
	w.memory.Observe(t.want, have, t.now)
	plan := podplan.Next(t.want, have, t.now)
	if plan.Stopped && !w.stopped {
		w.stopped = true // from now on residue counts
		if have, err = l.observe(ctx, t); err != nil {
			return keyed.Next{}, err
		}
		plan = podplan.Next(t.want, have, t.now)
	}
	if !w.memory.TerminatingSince.IsZero() {
		l.cancelStarts(t)
	}
	for _, a := range plan.Actions {
		l.launch(t, a)
	}
	if plan.Stopped {
		l.retryDeferred(t.entry)
	}
	if plan.Stopped && w.frozen == nil {
		frozen := have
		w.frozen = &frozen
	}
	if w.frozen != nil {
		have = *w.frozen
	}
	over := plan.Done && len(w.flight) == 0
	s := l.report(t, have, plan, over)
	t.show(t, plan, s)
	if over {
		return l.done(t), nil
	}
	return keyed.Next{At: l.nextLook(t, plan)}, nil
}

// done ends a worker whose pod has nothing left on the host. The entry stays until the source says
// that the pod is gone.
func (l *Loop) done(t turn) keyed.Next {
	l.config.Prober.Forget(t.uid)
	u := t.mail.update
	if t.mail.known && !u.Gone && u.Static && t.work.ending != nil && u.Pod.DeletionTimestamp == nil {
		t.renew() // its manifest was put back while it ended
		return keyed.Next{At: t.now}
	}
	if t.mail.known && !u.Gone {
		return keyed.Next{Done: true}
	}
	if !l.store.drop(t.entry) {
		return keyed.Next{At: t.now}
	}
	if t.mail.known && !u.Static {
		l.config.Sink.Forget(t.uid)
	}
	l.retryDeferred(t.entry)
	l.config.Log.Info("pod is gone", "pod", t.mail.ref.Namespace+"/"+t.mail.ref.Name, "uid", t.uid)
	for _, other := range l.store.sameName(t.entry) {
		l.workers.Wake(other.uid)
	}
	return keyed.Next{Done: true}
}

// report writes the status where there is an API object, and returns it. over says that nothing is
// left on the host.
func (l *Loop) report(t turn, have podplan.Have, plan podplan.Plan, over bool) corev1.PodStatus {
	if t.want.Pod == nil {
		return corev1.PodStatus{}
	}
	s := status.Pod(t.want, have, t.now)
	l.announceBackOffs(t, s)
	l.announceResize(t)
	u := t.mail.update
	object := u.Object()
	switch {
	case object == nil:
	case over && (u.Gone || !u.Static && object.DeletionTimestamp != nil):
		l.config.Sink.Finish(object, s)
	case plan.Hold:
		l.config.Sink.Hold(object, s)
	default:
		l.config.Sink.Put(object, s)
	}
	return s
}

// mustWait holds a static pod back while another one of its name is still on the host: they share
// names and folders of the outside world (host ports, hostPath locks), so that side by side they
// would fight.
func (l *Loop) mustWait(e *entry, m mail) bool {
	if !m.known || !m.update.Static || len(e.work.flight) > 0 {
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

// want says what is wanted of the pod now. It says false when that cannot be known yet.
func (l *Loop) want(e *entry, m *mail, have runtime.Pod, now time.Time) (podplan.Want, bool) {
	want := podplan.Want{UID: e.uid, Outcome: m.outcome, HostIPs: l.config.HostIPs(), Static: m.update.Static, CrashMax: l.config.CrashMax}
	if !m.known {
		return want, true
	}
	if object := m.update.Object(); object != nil {
		want.Reported = object.Status
	} else if !m.update.Static {
		want.Reported = m.update.Pod.Status
	}
	want.Pod = l.wantedPod(e, m.update, now)
	if m.admitted || m.outcome != nil || e.work.ending != nil {
		return want, true
	}
	if !have.Empty() || podspec.Terminal(m.update.Pod.Status.Phase) || want.Reported.Phase == corev1.PodRunning {
		e.admit() // it was admitted in an earlier life of the agent, and is never asked again
		return want, true
	}
	if !m.update.Static && !l.synced.Load() {
		return want, false // pods that run already are to be counted first
	}
	if o := l.admission(e, want.Pod); o != nil {
		m.outcome, want.Outcome = o, o
	}
	return want, true
}

// wantedPod is the pod with its end written in, once there is one: a pod that left its source ends
// by its own grace.
func (l *Loop) wantedPod(e *entry, u podspec.Update, now time.Time) *corev1.Pod {
	pod := u.Pod
	if u.Gone && pod.DeletionTimestamp == nil {
		pod = pod.DeepCopy()
		at := metav1.NewTime(now)
		if old := e.work.ending; old != nil {
			at = *old.DeletionTimestamp
		}
		pod.DeletionTimestamp = &at
		pod.DeletionGracePeriodSeconds = pod.Spec.TerminationGracePeriodSeconds
	}
	if pod.DeletionTimestamp != nil {
		e.work.ending = pod
	} else if e.work.ending != nil {
		pod = e.work.ending // it came back while it ended: first the end
	}
	return pod
}

// admission asks whether the pod may run, and takes its room if so.
func (l *Loop) admission(e *entry, pod *corev1.Pod) *podspec.Termination {
	l.store.admission.Lock()
	defer l.store.admission.Unlock()
	o := l.config.Admit(pod, l.store.admittedPods(e))
	if o == nil {
		e.admit()
		return nil
	}
	l.config.Events.Event(podspec.Reference(pod), corev1.EventTypeWarning, o.Reason, o.Message)
	l.config.Log.Info("pod refused", "pod", pod.Namespace+"/"+pod.Name, "uid", pod.UID, "reason", o.Reason, "message", o.Message)
	refused := *o
	refused.Message = "Pod was rejected: " + o.Message
	e.end(refused)
	return &refused
}

func isEnding(want podplan.Want) bool {
	return want.Pod == nil || want.Pod.DeletionTimestamp != nil || want.Outcome != nil
}

// observe gathers what the host has of the pod.
func (l *Loop) observe(ctx context.Context, t turn) (podplan.Have, error) {
	w := &t.work
	have := podplan.Have{
		Runtime: t.rt, Memory: &w.memory, Busy: make(map[string]bool, len(w.flight)),
		Probes: make(map[string]podspec.Probes), Messages: make(map[string]string),
	}
	for key := range w.flight {
		have.Busy[key] = true
	}
	if t.want.Pod != nil {
		reported := *t.want.Pod
		reported.Status = t.want.Reported
		l.config.Prober.Sync(&reported, t.rt)
	}
	for _, c := range t.rt.Containers {
		have.Probes[c.ID] = l.config.Prober.Results(c.ID)
		if _, read := w.messages[c.ID]; !read && c.State == runtime.Exited && t.want.Pod != nil {
			w.messages[c.ID] = l.message(ctx, t.want.Pod, c)
		}
		if m := w.messages[c.ID]; m != "" {
			have.Messages[c.ID] = m
		}
	}
	maps.DeleteFunc(w.messages, func(id, _ string) bool {
		return !slices.ContainsFunc(t.rt.Containers, func(c runtime.Container) bool { return c.ID == id })
	})
	if isEnding(t.want) || w.stopped {
		residue, err := l.config.Host.Residue(ctx, t.name())
		if err != nil {
			return have, fmt.Errorf("looking for what is left of pod %q: %w", t.uid, err)
		}
		have.Residue = residue
	}
	return have, nil
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

// nextLook is when the pod is to be looked at with no event.
func (l *Loop) nextLook(t turn, plan podplan.Plan) time.Time {
	at := t.now.Add(jittered(l.config.SyncFrequency, t.uid))
	for _, other := range []time.Time{plan.WakeAt, l.planRefresh(t)} {
		if !other.IsZero() && other.Before(at) {
			at = other
		}
	}
	return at
}

// jittered makes an interval up to a fifth longer, by a share that is the pod's own, so that pods
// do not move in step.
func jittered(d time.Duration, uid types.UID) time.Duration {
	h := fnv.New32a()
	_, _ = h.Write([]byte(uid))
	return d + time.Duration(int64(d)/5*int64(h.Sum32()%1000)/1000)
}

// settle notes the end of an action.
func (l *Loop) settle(e *entry, r result, now time.Time) {
	f, under := e.work.flight[r.key]
	if !under {
		return // of an earlier life
	}
	f.cancel()
	delete(e.work.flight, r.key)
	if r.action == nil {
		if r.Err != nil {
			e.fault(fmt.Errorf("refreshing volumes: %w", r.Err), now)
		}
		return
	}
	e.work.memory.Note(r.action, r.ActionResult, now)
	if len(f.news) > 0 && r.Err != nil {
		e.work.memory.Renew(e.pod(), f.news)
	}
	if l.config.OnAction != nil {
		l.config.OnAction(r.action, r.took, r.Err)
	}
	log := l.config.Log.With("pod", e.name().Namespace+"/"+e.name().Name, "uid", e.uid, "action", r.action.String(), "took", r.took)
	switch {
	case r.Err == nil:
		log.Info("done")
	case errors.Is(r.Err, context.Canceled):
		log.Info("cancelled")
	default:
		log.Warn("failed", "error", r.Err)
		e.fault(fmt.Errorf("%s: %w", r.action, r.Err), now)
	}
}
