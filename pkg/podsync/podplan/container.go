package podplan

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// ContainerState is where a container is in its life:
//
//	Pending ─► Running ─► Restarting ─► Running …
//	              │
//	              └─► Succeeded, Failed  (for good)
//
// Nothing leads out of Succeeded and Failed but a new sandbox for an init container. A container
// whose task does not answer counts as Running: nobody knows that it has ended.
type ContainerState string

// The states of a container.
const (
	Pending    ContainerState = "Pending"    // no attempt of it ever ran
	Running    ContainerState = "Running"    // an attempt runs
	Restarting ContainerState = "Restarting" // the newest attempt ended and another will follow
	Succeeded  ContainerState = "Succeeded"
	Failed     ContainerState = "Failed"
)

// ContainerView is one container of the pod's spec with what is known of it.
type ContainerView struct {
	Spec  *corev1.Container
	Role  podspec.Role
	State ContainerState
	// Latest and Previous are records of the host; nil when there are none.
	Latest, Previous *runtime.Container
	Reported         *corev1.ContainerStatus // nil when the API holds none
	// Exit is the end of the newest attempt; nil if there is none or it runs.
	Exit *Exit
	// Attempt is the one to start next; of a running container the one that runs.
	Attempt int
	// Current says that the newest attempt belongs to the current sandbox.
	Current bool
	// Started says that it runs, its postStart hook is done, and its startup probe has succeeded.
	Started bool
	// HookPending says that its postStart hook has not ended yet.
	HookPending bool
	// Applied are the resources that the newest attempt was made with or given since; nil when its
	// record does not say.
	Applied *podspec.Resources
	// Resize says that it runs with other resources than it was allocated.
	Resize bool
	Due    time.Time     // when its back-off ends; zero when it may start at once
	Delay  time.Duration // the back-off before its next start; 0 for none
	next   time.Duration // the back-off after its next start
}

// Exit is how an attempt ended.
type Exit struct {
	Code     int
	Finished time.Time // by the wall clock of whoever wrote it down
	Ended    time.Time // as an own moment
	// Lost says that the host has no record of the attempt, only the API.
	Lost bool
}

// lostCode is the exit code of an attempt of which the host has lost the record.
const lostCode = 137

func (v *viewer) containers() []ContainerView {
	spec := &v.want.Pod.Spec
	out := make([]ContainerView, 0, len(spec.InitContainers)+len(spec.Containers)+len(spec.EphemeralContainers))
	for role, c := range podspec.Containers(v.want.Pod) {
		out = append(out, v.container(c, role))
	}
	return out
}

func (v *viewer) container(spec *corev1.Container, role podspec.Role) ContainerView {
	rt := &v.observed.Runtime
	c := ContainerView{Spec: spec, Role: role, Latest: rt.Latest(spec.Name), Reported: podspec.Status(&v.want.Reported, spec.Name)}
	if c.Latest != nil {
		c.Previous = rt.Previous(spec.Name)
	}
	c.Attempt = c.nextAttempt(rt.Sandbox)
	c.Exit = v.exit(&c)
	c.Current = c.inCurrent(rt.Sandbox)
	v.setState(&c)
	c.setResize(v.want.Pod)
	return c
}

// nextAttempt is the attempt that the container starts as. An attempt that was created and never
// started is taken up again, unless its sandbox is gone.
func (c *ContainerView) nextAttempt(sandbox *runtime.Sandbox) int {
	switch r := c.Latest; {
	case r == nil && c.Reported == nil:
		return 0
	case r == nil:
		return attempts(c.Reported)
	case r.State == runtime.Running || r.State == runtime.Unknown || r.State == runtime.Created && inSandbox(r, sandbox):
		return r.Attempt
	default:
		return r.Attempt + 1
	}
}

// attempts is how many attempts the API knows of.
func attempts(s *corev1.ContainerStatus) int {
	if s.State.Running == nil && s.State.Terminated == nil && s.LastTerminationState.Terminated == nil {
		return int(s.RestartCount)
	}
	return int(s.RestartCount) + 1
}

// inSandbox says whether an attempt was made in this sandbox. A running one whose record does not
// name its sandbox counts as in it.
func inSandbox(c *runtime.Container, s *runtime.Sandbox) bool {
	switch {
	case s == nil:
		return false
	case c.SandboxID != "":
		return c.SandboxID == s.ID
	}
	return c.State == runtime.Running || c.CreatedAt.IsZero() || !c.CreatedAt.Before(s.CreatedAt)
}

// inCurrent says whether the newest attempt was made in the current sandbox.
func (c *ContainerView) inCurrent(s *runtime.Sandbox) bool {
	switch {
	case s == nil || !s.Ready:
		return false
	case c.Latest != nil:
		return inSandbox(c.Latest, s)
	case c.Exit != nil: // the API's times are in whole seconds
		return !c.Exit.Finished.Before(s.CreatedAt.Truncate(time.Second))
	}
	return false
}

// exit is how the newest attempt ended, by the host's record, else by the reported status.
func (v *viewer) exit(c *ContainerView) *Exit {
	if r := c.Latest; r != nil {
		if r.State != runtime.Exited {
			return nil
		}
		return &Exit{Code: r.ExitCode, Finished: r.FinishedAt, Ended: v.state.ended(r.ID, r.FinishedAt, v.now)}
	}
	if c.Reported == nil {
		return nil
	}
	for _, s := range []*corev1.ContainerState{&c.Reported.State, &c.Reported.LastTerminationState} {
		switch {
		case s.Terminated != nil:
			at := s.Terminated.FinishedAt.Time
			return &Exit{Code: int(s.Terminated.ExitCode), Finished: at, Ended: v.state.ended(lostKey(c.Spec.Name), at, v.now), Lost: true}
		case s.Running != nil:
			return &Exit{Code: lostCode, Ended: v.state.ended(lostKey(c.Spec.Name), time.Time{}, v.now), Lost: true}
		}
	}
	return nil
}

// setState fills in the state and what follows from it.
func (v *viewer) setState(c *ContainerView) {
	switch {
	case c.Latest != nil && (c.Latest.State == runtime.Running || c.Latest.State == runtime.Unknown):
		c.State = Running
		c.HookPending = v.hookPending(c)
		c.Started = !c.HookPending && v.startupDone(c)
	case c.Exit == nil:
		c.State = Pending
	case v.startsAgain(c):
		c.State = Restarting
		v.backOff(c)
	case c.Exit.Code == 0:
		c.State = Succeeded
	default:
		c.State = Failed
	}
}

// hookPending says whether a running container's postStart hook must still end. One that was
// reported as running had it.
func (v *viewer) hookPending(c *ContainerView) bool {
	if c.Spec.Lifecycle == nil || c.Spec.Lifecycle.PostStart == nil || c.Role == podspec.Ephemeral {
		return false
	}
	if h := v.state.Hooks[c.Latest.ID]; h.PostStartDone {
		return h.PostStartError != ""
	}
	return !c.reportedRunning()
}

// reportedRunning says that the status reported this very attempt as running.
func (c *ContainerView) reportedRunning() bool {
	return c.Latest != nil && c.Reported != nil && c.Reported.State.Running != nil && c.Reported.ContainerID == podspec.StatusID(c.Latest.ID)
}

// startupDone says whether the startup probe has succeeded. After a restart of the agent, what was
// reported counts until the probe says otherwise.
func (v *viewer) startupDone(c *ContainerView) bool {
	if c.Spec.StartupProbe == nil || c.Role == podspec.Ephemeral {
		return true
	}
	switch v.observed.Probes[c.Latest.ID].Startup {
	case podspec.ProbeSuccess:
		return true
	case podspec.NotProbed:
		return c.reportedRunning() && c.Reported.Started != nil && *c.Reported.Started
	case podspec.ProbeFailure:
	}
	return false
}

// Ready says whether a container counts as ready: it has started, and its readiness probe, if it
// has one, succeeds. Until that has run, the reported readiness of the same attempt counts, so that
// a restart of the agent flips nothing. An init container is ready when it has succeeded.
func (c *ContainerView) Ready(p podspec.Probes) bool {
	switch {
	case c.Role == podspec.Init:
		return c.State == Succeeded
	case c.Role == podspec.Ephemeral || !c.Started:
		return false
	case c.Spec.ReadinessProbe == nil || p.Readiness == podspec.ProbeSuccess:
		return true
	}
	return p.Readiness == podspec.NotProbed && c.reportedRunning() && c.Reported.Ready
}

// startsAgain says whether an attempt that ended is followed by another.
func (v *viewer) startsAgain(c *ContainerView) bool {
	pod := v.want.Pod
	if c.Latest != nil && v.state.Stops[c.Latest.ID].Replace || restarts(pod, c, c.Exit.Code) {
		return true
	}
	// An init container that succeeded runs again in a new sandbox: what it did there is gone.
	return c.Role == podspec.Init && c.Exit.Code == 0 && !c.Current && pod.Spec.RestartPolicy != corev1.RestartPolicyNever
}

// restarts is the restart policy: the first rule of the container that matches, else its own
// policy, else the pod's.
func restarts(pod *corev1.Pod, c *ContainerView, code int) bool {
	switch c.Role {
	case podspec.Ephemeral:
		return false
	case podspec.Sidecar:
		return true
	case podspec.Init, podspec.App:
	}
	for _, rule := range c.Spec.RestartPolicyRules {
		if matches(rule, int32(code)) {
			return true
		}
	}
	policy := pod.Spec.RestartPolicy
	if own := c.Spec.RestartPolicy; own != nil {
		policy = corev1.RestartPolicy(*own)
	}
	switch policy {
	case corev1.RestartPolicyNever:
		return false
	case corev1.RestartPolicyOnFailure:
		return code != 0
	case corev1.RestartPolicyAlways:
	}
	return c.Role == podspec.App || code != 0
}

// matches says whether a rule (KEP-5307) asks for a restart after this exit code.
func matches(rule corev1.ContainerRestartRule, code int32) bool {
	if rule.Action != corev1.ContainerRestartRuleActionRestart || rule.ExitCodes == nil {
		return false
	}
	in := slices.Contains(rule.ExitCodes.Values, code)
	return in == (rule.ExitCodes.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn)
}

// backOff fills in when a container that ended starts again. A container of a new spec does not pay
// for the old one's crashes.
func (v *viewer) backOff(c *ContainerView) {
	crash := v.state.Crashes[c.Spec.Name]
	if c.Latest != nil && (c.outdated() || v.state.Stops[c.Latest.ID].Replace) {
		crash = CrashState{}
	}
	c.next = crash.next(c.Exit.Ended, v.want.crashMax())
	c.Delay = crash.CrashDelay(c.Exit.Ended, v.want.crashMax())
	if due := c.Exit.Ended.Add(c.Delay); due.After(v.now) {
		c.Due = due
	}
}

// endForGood sets the state of a container of an ending pod, which never restarts, to that of its
// last end.
func (c *ContainerView) endForGood() {
	c.State, c.Due, c.Delay = Failed, time.Time{}, 0
	if c.Exit.Code == 0 {
		c.State = Succeeded
	}
}

// Replaceable says that the container runs, was made from another spec than the pod has now, and is
// to be replaced. It is stopped when the image of its successor is there, so that an image that
// cannot be pulled breaks nothing.
func (c *ContainerView) Replaceable() bool {
	return c.State == Running && c.Latest.State == runtime.Running && c.Role.Serves() && c.outdated()
}

// outdated says that the newest attempt was made from another spec than the pod has now.
func (c *ContainerView) outdated() bool {
	return c.Latest.SpecHash != "" && c.Latest.SpecHash != podspec.SpecHash(c.Spec)
}
