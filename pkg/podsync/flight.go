package podsync

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/nodeagent/nodeagent/pkg/podsync/podplan"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// Task is one action with what it may need to know. Nothing in it is written to.
type Task struct {
	Want   podplan.Want // Want.Pod is nil for a pod that only the host knows
	Ref    runtime.PodRef
	Have   runtime.Pod
	Action podplan.Action
}

// Applier carries an action out. It is idempotent, ends when ctx does, and announces what happens
// as events of the pod.
type Applier interface {
	Apply(ctx context.Context, t Task) podplan.ActionResult
}

// refreshKey is the key of the refresh of volumes among the actions under way.
const refreshKey = "refresh"

// launch starts an action beside the worker, unless one of its key is under way.
func (l *Loop) launch(t turn, a podplan.Action) {
	task := Task{Want: t.want, Ref: t.name(), Have: t.rt, Action: a}
	l.fly(t.entry, a.Key(), a, func(ctx context.Context) podplan.ActionResult { return l.config.Apply.Apply(ctx, task) })
}

// fly runs f beside the worker; its result comes with a later step. A nil action is a refresh of
// volumes.
func (l *Loop) fly(e *entry, key string, a podplan.Action, f func(context.Context) podplan.ActionResult) {
	if _, under := e.work.flight[key]; under {
		return
	}
	began := l.config.Now()
	cancel := l.spawn(l.bound(a), func(ctx context.Context) {
		r := f(ctx)
		if r.Err != nil && errors.Is(ctx.Err(), context.Canceled) {
			r.Err = context.Canceled // whatever else it says
		}
		e.deliver(result{key: key, action: a, ActionResult: r, took: l.config.Now().Sub(began)})
		l.workers.Wake(e.uid)
	})
	e.work.flight[key] = flight{action: a, cancel: cancel, since: began}
}

// The bounds of actions that may rightly take long.
const (
	// the runtime ends a pull whose registry sends nothing (imagePullProgressDeadline) long before
	maxPull = time.Hour
	maxHook = time.Hour // a postStart hook has no bound of its own in the API
)

// bound is how long an action may take.
func (l *Loop) bound(a podplan.Action) time.Duration {
	switch a := a.(type) {
	case podplan.EnsureImage:
		return maxPull
	case podplan.RunHook:
		if a.Kind == podspec.PreStop {
			return max(a.Grace, time.Second)
		}
		return maxHook
	}
	return l.config.RequestTimeout
}

// cancelStarts cancels what is under way to bring up a pod that is to end, and a preStop hook whose
// time was cut short.
func (l *Loop) cancelStarts(t turn) {
	for _, f := range t.work.flight {
		switch a := f.action.(type) {
		case podplan.MountVolume, podplan.StartSandbox, podplan.EnsureImage, podplan.StartContainer, nil:
			f.cancel()
		case podplan.RunHook:
			if a.Kind == podspec.PostStart || t.isCutShort(a, f) {
				f.cancel()
			}
		}
	}
}

// isCutShort says that a preStop hook has used up the grace that the pod has by now.
func (t turn) isCutShort(hook podplan.RunHook, f flight) bool {
	if t.want.Pod == nil || t.want.Pod.DeletionGracePeriodSeconds == nil {
		return false
	}
	grace := time.Duration(*t.want.Pod.DeletionGracePeriodSeconds) * time.Second
	return grace < hook.Grace && t.now.Sub(f.since) >= grace
}

// planRefresh starts the refresh of the pod's volumes when it is due, and returns when it next is;
// zero: never.
func (l *Loop) planRefresh(t turn) time.Time {
	w := &t.work
	if t.want.Pod == nil || isEnding(t.want) || podspec.Terminal(t.want.Pod.Status.Phase) {
		return time.Time{}
	}
	names := l.config.Volumes.Refreshable(t.want.Pod)
	names = slices.DeleteFunc(names, func(name string) bool { return !w.memory.Volumes[name].Mounted })
	if len(names) == 0 {
		return time.Time{}
	}
	every := jittered(l.config.RefreshInterval, t.uid)
	if w.refresh.IsZero() {
		w.refresh = t.now.Add(every)
	}
	if len(t.mail.news) == 0 && t.now.Before(w.refresh) {
		return w.refresh
	}
	if _, under := w.flight[refreshKey]; under {
		w.refresh = t.now.Add(time.Second) // there is news that the one under way may have missed
		return w.refresh
	}
	w.refresh = t.now.Add(every)
	pod := t.want.Pod
	l.fly(t.entry, refreshKey, nil, func(ctx context.Context) podplan.ActionResult {
		var errs []error
		for _, name := range names {
			errs = append(errs, l.config.Volumes.Mount(ctx, pod, name))
		}
		return podplan.ActionResult{Err: errors.Join(errs...)}
	})
	return w.refresh
}

// podIPs are the addresses of the pod; those of the node for a pod in its network.
func podIPs(want podplan.Want, have runtime.Pod) []netip.Addr {
	switch {
	case want.Pod != nil && want.Pod.Spec.HostNetwork:
		return want.HostIPs
	case have.Sandbox != nil:
		return have.Sandbox.IPs
	}
	return nil
}
