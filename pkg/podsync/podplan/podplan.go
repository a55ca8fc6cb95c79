// Package podplan is PURE: the pod state machine. Step takes what is wanted of a pod, the state
// that its last step returned, and what was observed on the host. It returns the new state, a view
// of the pod for its status, and a plan: the actions that may start now, and when to step again.
// Step reads nothing but its arguments and writes to none of them, has no clock, and waits for
// nothing: order is "not yet", so all actions of a plan may run side by side. Nothing waits for the
// wall clock: see podspec.OwnMoment.
//
// Each action has a file of its own, action_*.go; the kinds of claims are a table in claim.go.
package podplan

import (
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// Want is the newest that is wanted of a pod.
type Want struct {
	UID types.UID
	// Pod is as its source has it; nil when every source has synced and none knows the pod: then
	// its containers are ended and all that it holds is removed.
	Pod *corev1.Pod
	// Reported is the status that the API server holds. It seeds what the host cannot tell after a
	// restart of the agent: readiness, start time, restart counts of removed containers.
	Reported corev1.PodStatus
	// Termination, when set, ends the pod as Failed whatever its containers do.
	Termination *podspec.Termination
	HostIPs     []netip.Addr // addresses of the node, primary first
	// CrashMax is the longest back-off of a crash loop on this node; 0: 300 s.
	CrashMax time.Duration
	// Static says that the pod is defined on this node: no API object to delete when it has ended.
	Static bool
}

// Observed is what the agent has observed of a pod.
type Observed struct {
	Runtime runtime.Pod
	// Held are the kinds of claims that the host still holds for the pod. They are only observed
	// after a plan has said Stopped.
	Held []Kind
	// Probes has the newest results by container id.
	Probes map[string]podspec.Probes
	// Messages has the termination messages of exited containers by container id.
	Messages map[string]string
	// Running has the keys (Action.Key) of the running actions.
	Running map[string]bool
	// Completed are the actions that have ended since the last step.
	Completed []Completed
	// Changed are the ConfigMaps and Secrets that changed, appeared or went since the last step.
	Changed []podspec.ObjectRef
	// Headroom is what the node has for the pod; nil: this step allocates nothing new.
	Headroom *Headroom
}

// Completed is an action that has ended.
type Completed struct {
	Action Action
	ActionResult
	// Changed are the ConfigMaps and Secrets that changed while it ran, which it may have missed.
	Changed []podspec.ObjectRef
}

// ActionResult is how an action ended. A successful EnsureImage sets ImageID.
type ActionResult struct {
	Err     error
	ImageID string
}

// Plan is what to do now.
type Plan struct {
	Actions []Action
	// WakeAt is the next moment at which the plan could change without an event; zero for none.
	WakeAt time.Time
	// Stopped says that no container of an ending pod runs or will run: from here on the pod's
	// status is final.
	Stopped bool
	// Hold says that this moment's status is not for the API: a container that was replaced has
	// ended and its successor is being started. It is over at WakeAt at the latest.
	Hold bool
	// Done says that the host holds nothing of the pod any more; its worker may end.
	Done bool
}

// Step moves a pod one step.
//
//	            claims  ┐
//	LIVING      sandbox ┼─► init containers, one after the other ─► app containers ─► ended for good? ─┐
//	            images  ┘     sidecars: on to the next once started     restarted by policy, back-off   │
//	               ▲                                                             │                      │
//	               └── remove sandbox ◄── every container stopped ◄── sandbox lost                      │
//	                                                                                                    │
//	   deleted, unknown to every source, refused, evicted, past its deadline, Succeeded or Failed ──────┤
//	                                                                                                    ▼
//	ENDING      preStop ─► stop signal ─► grace ─► SIGKILL; sidecars last, in reverse ─► Stopped
//	                                                                                        │
//	STOPPED     remove sandbox, unmount volumes, remove cgroup; records and logs stay ◄─────┤
//	                                                                                        │ deleted or unknown
//	REMOVED     … and remove containers ─► clean up ─► Done ◄───────────────────────────────┘
//
// Nothing leads back from ENDING: no container of such a pod is ever started. A plan does not name
// an action whose key is that of a running one.
func Step(w Want, s State, o Observed, now time.Time) (State, PodView, Plan) {
	for _, c := range o.Completed {
		c.Action.complete(&s, c.ActionResult, now)
		if c.Err != nil {
			s.renew(w.Pod, c.Changed)
		}
	}
	s.renew(w.Pod, o.Changed)
	w.Pod = s.allocate(&w, &o)
	s.observeTimes(&w, &o, now)
	v := viewer{want: &w, state: &s, observed: &o, now: now}
	view := v.view()
	s.observe(&v, &view)
	p := planner{viewer: v, view: &view, rules: rules()}
	p.wakeAt(view.wake)
	if view.Ends {
		p.end()
	} else {
		p.live()
		p.hold()
	}
	return s, view, p.plan
}
