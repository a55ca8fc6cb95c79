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

// refreshKey is the key of the refresh of volumes among the running actions.
const refreshKey = "refresh"

// runningAction is an action that runs beside the worker.
type runningAction struct {
	action  podplan.Action // nil: a refresh of volumes
	policy  podplan.Policy
	cancel  context.CancelFunc
	since   time.Time
	changed []podspec.ObjectRef // since it began; it may have missed them
}

// launch starts an action beside the worker, unless one of its key runs.
func (l *Loop) launch(t step, a podplan.Action) {
	task := Task{Want: t.want, Ref: t.name(), Runtime: t.rt, Action: a}
	l.run(t.entry, a.Key(), a, func(ctx context.Context) podplan.ActionResult { return l.config.Executor.Execute(ctx, task) })
}

// run runs f beside the worker; a later step takes its result. A nil action is a refresh of
// volumes.
func (l *Loop) run(e *entry, key string, a podplan.Action, f func(context.Context) podplan.ActionResult) {
	if _, runs := e.worker.running[key]; runs {
		return
	}
	policy := podplan.Policy{Cancel: podplan.CancelAtEnd}
	if a != nil {
		policy = a.Policy()
	}
	began := l.config.Now()
	cancel := l.spawn(orDefault(policy.Limit, l.config.RequestTimeout), func(ctx context.Context) {
		r := f(ctx)
		if r.Err != nil && errors.Is(ctx.Err(), context.Canceled) {
			r.Err = context.Canceled // whatever else it says
		}
		e.deliver(result{key: key, action: a, ActionResult: r, took: l.config.Now().Sub(began)})
		l.workers.Wake(e.uid)
	})
	e.worker.running[key] = runningAction{action: a, policy: policy, cancel: cancel, since: began}
}

// cancelForEnd cancels the running actions that the end of the pod cancels.
func (l *Loop) cancelForEnd(t step) {
	for _, r := range t.worker.running {
		if r.policy.Cancel == podplan.CancelAtEnd || r.policy.Cancel == podplan.CancelAtGrace && t.graceUsedUp(r) {
			r.cancel()
		}
	}
}

// graceUsedUp says that an action has used up the grace that the pod has by now.
func (t step) graceUsedUp(r runningAction) bool {
	if t.want.Pod == nil || t.want.Pod.DeletionGracePeriodSeconds == nil {
		return false
	}
	grace := time.Duration(*t.want.Pod.DeletionGracePeriodSeconds) * time.Second
	return grace < r.policy.Limit && t.now.Sub(r.since) >= grace
}

// planRefresh starts the refresh of the pod's volumes when it is due, and returns when the next one
// is; zero: never.
func (l *Loop) planRefresh(t step) time.Time {
	w := &t.worker
	if t.want.Pod == nil || isEnding(t.want) || podspec.Terminal(t.want.Pod.Status.Phase) {
		return time.Time{}
	}
	names := l.config.Volumes.Refreshable(t.want.Pod)
	names = slices.DeleteFunc(names, func(name string) bool {
		return !w.state.Claims[podplan.Claim{Kind: podplan.Volume, Name: name}.Key()].Prepared
	})
	if len(names) == 0 {
		return time.Time{}
	}
	every := jittered(l.config.RefreshInterval, t.uid)
	if w.refresh.IsZero() {
		w.refresh = t.now.Add(every)
	}
	if len(t.inbox.changed) == 0 && t.now.Before(w.refresh) {
		return w.refresh
	}
	if _, runs := w.running[refreshKey]; runs {
		w.refresh = t.now.Add(time.Second) // the running one may have missed the change
		return w.refresh
	}
	w.refresh = t.now.Add(every)
	pod := t.want.Pod
	l.run(t.entry, refreshKey, nil, func(ctx context.Context) podplan.ActionResult {
		var errs []error
		for _, name := range names {
			errs = append(errs, l.config.Volumes.Mount(ctx, pod, name))
		}
		return podplan.ActionResult{Err: errors.Join(errs...)}
	})
	return w.refresh
}

// podIPs are the addresses of the pod; those of the node for a pod in its network.
func podIPs(want podplan.Want, rt runtime.Pod) []netip.Addr {
	switch {
	case want.Pod != nil && want.Pod.Spec.HostNetwork:
		return want.HostIPs
	case rt.Sandbox != nil:
		return rt.Sandbox.IPs
	}
	return nil
}
