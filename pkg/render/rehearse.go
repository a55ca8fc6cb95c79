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

// rehearse plays the pod's start on an empty host on which everything works at once: each entry are
// the actions that are begun side by side when those of the entry before have ended. Init
// containers succeed, all others run on.
func rehearse(want podplan.Want) [][]string {
	now := time.Unix(0, 0).UTC() // no delay comes into it: nothing fails
	host := podplan.Have{Runtime: runtime.Pod{PodRef: runtime.RefOf(want.Pod)}, Memory: &podplan.Memory{}, Probes: map[string]podspec.Probes{}}
	var out [][]string
	for range mostSteps {
		host.Memory.Observe(want, host, now)
		plan := podplan.Next(want, host, now)
		if len(plan.Actions) == 0 {
			break
		}
		var begun []string
		for _, a := range plan.Actions {
			begun = append(begun, a.String())
			play(want.Pod, &host, a, now)
			host.Memory.Note(a, podplan.ActionResult{ImageID: "sha256:0"}, now)
		}
		out = append(out, begun)
	}
	return out
}

// play has an action succeed.
func play(pod *corev1.Pod, host *podplan.Have, a podplan.Action, now time.Time) {
	switch a := a.(type) {
	case podplan.StartSandbox:
		host.Runtime.Sandbox = &runtime.Sandbox{ID: runtime.SandboxID(pod.UID, a.Attempt), Attempt: a.Attempt, Ready: true, CreatedAt: now}
	case podplan.StartContainer:
		c := runtime.Container{
			ID: runtime.ContainerID(pod.UID, a.Container, a.Attempt), Name: a.Container, Attempt: a.Attempt, ImageID: a.ImageID, Recorded: runtime.Recorded{ImageDigest: a.ImageID},
			SandboxID: host.Runtime.Sandbox.ID, State: runtime.Running, CreatedAt: now, StartedAt: now,
		}
		spec, role := podspec.Find(pod, a.Container)
		c.SpecHash = podspec.SpecHash(spec)
		if role == podspec.Init {
			c.State, c.FinishedAt = runtime.Exited, now
		}
		host.Runtime.Containers = append(host.Runtime.Containers, c)
		host.Probes[c.ID] = podspec.Probes{Startup: podspec.ProbeSuccess, Liveness: podspec.ProbeSuccess, Readiness: podspec.ProbeSuccess}
	}
}
