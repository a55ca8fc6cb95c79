package render

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/podplan"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// mostSteps bounds a rehearsal; a pod needs a few more than it has init containers.
const mostSteps = 1000

// rehearse plays the pod's start on an empty host on which everything succeeds at once: each entry
// has the actions that begin side by side when those of the entry before have ended. Init
// containers succeed, all others run on.
func rehearse(want podplan.Want) [][]string {
	now := time.Unix(0, 0).UTC() // nothing fails, so nothing is delayed
	observed := podplan.Observed{Runtime: runtime.Pod{PodRef: runtime.RefOf(want.Pod)}, Probes: map[string]podspec.Probes{}}
	var state podplan.State
	var out [][]string
	for range mostSteps {
		var plan podplan.Plan
		state, _, plan = podplan.Step(want, state, observed, now)
		if len(plan.Actions) == 0 {
			break
		}
		observed.Completed = nil
		var begun []string
		for _, a := range plan.Actions {
			begun = append(begun, a.String())
			var result podplan.ActionResult
			observed, result = podplan.Simulate(want, observed, a, now)
			observed.Completed = append(observed.Completed, podplan.Completed{Action: a, ActionResult: result})
		}
		goOn(want.Pod, &observed, now)
		out = append(out, begun)
	}
	return out
}

// goOn has running init containers succeed, and the probes of all others.
func goOn(pod *corev1.Pod, o *podplan.Observed, now time.Time) {
	for i := range o.Runtime.Containers {
		c := &o.Runtime.Containers[i]
		if _, role := podspec.Find(pod, c.Name); role == podspec.Init && c.State == runtime.Running {
			c.State, c.FinishedAt = runtime.Exited, now
		}
		o.Probes[c.ID] = podspec.Probes{Startup: podspec.ProbeSuccess, Liveness: podspec.ProbeSuccess, Readiness: podspec.ProbeSuccess}
	}
}
