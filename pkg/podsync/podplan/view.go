package podplan

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// PodView is a pod as plan and status see it.
type PodView struct {
	// Pod has the resources that it was allocated; nil for a pod that only the host knows.
	Pod        *corev1.Pod
	Containers []ContainerView // init, app, ephemeral; each in the order of the spec
	// Initialized says that an app container runs or was created in the current sandbox: the init
	// containers are done.
	Initialized bool
	// Ends says that no container of the pod may start any more; Removed, that the host must hold
	// nothing of it in the end.
	Ends, Removed bool
	// Completed says that the pod ends because its containers have ended.
	Completed bool
	// Termination is why the pod has failed whatever its containers did; nil if it has not.
	Termination *podspec.Termination
	// Stopped says that the pod ends and no container of it runs or will run.
	Stopped bool
	// wake is the next moment at which the view changes by itself.
	wake time.Time
}

// View returns a pod as Step does, for the pod and state that Step has returned.
func View(w Want, s State, o Observed, now time.Time) PodView {
	v := viewer{want: &w, state: &s, observed: &o, now: now}
	return v.view()
}

// viewer makes a PodView.
type viewer struct {
	want     *Want
	state    *State
	observed *Observed
	now      time.Time
}

func (v *viewer) view() PodView {
	pod := v.want.Pod
	if pod == nil {
		return PodView{Ends: true, Removed: true, Stopped: v.stopped()}
	}
	p := PodView{Pod: pod, Containers: v.containers(), Removed: pod.DeletionTimestamp != nil}
	p.Completed = v.completed(&p)
	p.Termination, p.wake = v.termination(p.Removed || p.Completed)
	p.Ends = p.Removed || p.Termination != nil || p.Completed || podspec.Terminal(v.want.Reported.Phase)
	p.Stopped = p.Ends && v.stopped()
	for i := range p.Containers {
		c := &p.Containers[i]
		if c.Role == podspec.App && c.Latest != nil && (c.Current || p.Ends || c.State == Running) {
			p.Initialized = true
		}
		if p.Ends && c.State == Restarting {
			c.endForGood()
		}
	}
	return p
}

// reasonDeadline is the reason of a pod that was active for longer than its spec allows.
const reasonDeadline = "DeadlineExceeded"

// termination is why the pod fails as a whole, and when that could change by itself. A deadline
// that passes while the pod already ends does not fail it.
func (v *viewer) termination(ending bool) (*podspec.Termination, time.Time) {
	if v.want.Termination != nil {
		return v.want.Termination, time.Time{}
	}
	limit := v.want.Pod.Spec.ActiveDeadlineSeconds
	if limit == nil || podspec.Terminal(v.want.Reported.Phase) {
		return nil, time.Time{}
	}
	if !v.state.Exceeded && v.want.Reported.Reason != reasonDeadline {
		deadline := v.began().Add(seconds(*limit))
		switch {
		case ending:
			return nil, time.Time{}
		case v.now.Before(deadline):
			return nil, deadline
		}
	}
	return &podspec.Termination{Reason: reasonDeadline, Message: "Pod was active on the node longer than the specified deadline"}, time.Time{}
}

// began is when the node took the pod in, as an own moment.
func (v *viewer) began() time.Time {
	if v.state.Began.IsZero() {
		return podspec.OwnMoment(v.state.StartTime(&v.want.Reported, v.now), v.now)
	}
	return v.state.Began
}

// StartTime is when the node took the pod in, as the status says.
func (s *State) StartTime(reported *corev1.PodStatus, now time.Time) time.Time {
	switch {
	case reported.StartTime != nil:
		return reported.StartTime.Time
	case !s.FirstSeen.IsZero():
		return s.FirstSeen
	}
	return now
}

// completed says that the pod's containers have ended for good: an init container failed, or every
// app container ended, or, with restart policy Never, their sandbox is gone.
func (v *viewer) completed(p *PodView) bool {
	done, apps, tried := 0, 0, false
	for i := range p.Containers {
		c := &p.Containers[i]
		tried = tried || c.Latest != nil || c.Exit != nil
		ended := c.State == Succeeded || c.State == Failed
		switch {
		case c.Role == podspec.Init && c.State == Failed:
			return true
		case c.Role == podspec.App:
			apps++
			if ended {
				done++
			}
		}
	}
	if apps > 0 && done == apps {
		return true
	}
	lost := v.observed.Runtime.Sandbox == nil || !v.observed.Runtime.Sandbox.Ready
	return lost && tried && p.Pod.Spec.RestartPolicy == corev1.RestartPolicyNever
}

// stopped says that no container runs or is being started.
func (v *viewer) stopped() bool { return !v.anyAlive() && !v.running(startPrefix) }

// anyAlive says that a container runs, or may run.
func (v *viewer) anyAlive() bool {
	for i := range v.observed.Runtime.Containers {
		if v.alive(&v.observed.Runtime.Containers[i]) {
			return true
		}
	}
	return false
}

// alive says that a container runs, or may run. One whose task does not answer counts as dead once
// it was sent SIGKILL: its removal kills what is left of it.
func (v *viewer) alive(c *runtime.Container) bool {
	return c.State == runtime.Running || c.State == runtime.Unknown && v.state.Stops[c.ID].KillSent.IsZero()
}

// running says that an action runs whose key begins so.
func (v *viewer) running(prefix string) bool {
	for key := range v.observed.Running {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	return false
}

// earlier is the earlier of two moments, where zero is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func seconds(s int64) time.Duration { return time.Duration(s) * time.Second }
