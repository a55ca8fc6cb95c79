package podplan

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// stand fills in the standing and what follows from it.
func (l *looker) stand(c *Container) {
	switch {
	case c.Latest != nil && (c.Latest.State == runtime.Running || c.Latest.State == runtime.Unknown):
		c.Standing = Running
		c.HookPending = l.hookPending(c)
		c.Started = !c.HookPending && l.startupDone(c)
	case c.Exit == nil:
		c.Standing = Pending
	case l.again(c):
		c.Standing = Restarting
		l.backOff(c)
	case c.Exit.Code == 0:
		c.Standing = Succeeded
	default:
		c.Standing = Failed
	}
}

// hookPending says whether a running container's postStart hook must still end. One that was
// reported as running had it.
func (l *looker) hookPending(c *Container) bool {
	if c.Spec.Lifecycle == nil || c.Spec.Lifecycle.PostStart == nil || c.Role == podspec.Ephemeral {
		return false
	}
	if h := l.memory.Hooks[c.Latest.ID]; h.PostStartDone {
		return h.PostStartError != ""
	}
	return !c.reportedRunning()
}

// reportedRunning says that the API was told that this very attempt runs.
func (c *Container) reportedRunning() bool {
	return c.Latest != nil && c.Reported != nil && c.Reported.State.Running != nil && c.Reported.ContainerID == podspec.StatusID(c.Latest.ID)
}

// startupDone says whether the startup probe has succeeded. After a restart of the agent, what was
// reported counts until the probe says otherwise.
func (l *looker) startupDone(c *Container) bool {
	if c.Spec.StartupProbe == nil || c.Role == podspec.Ephemeral {
		return true
	}
	switch l.have.Probes[c.Latest.ID].Startup {
	case podspec.ProbeSuccess:
		return true
	case podspec.NotProbed:
		return c.reportedRunning() && c.Reported.Started != nil && *c.Reported.Started
	}
	return false
}

// Ready says whether a container counts as ready: it has started, and its readiness probe, if it
// has one, succeeds. Until that has run, what the API was told of the same attempt counts, so that
// a restart of the agent flips nothing. An init container is ready when it has succeeded.
func (c *Container) Ready(p podspec.Probes) bool {
	switch {
	case c.Role == podspec.Init:
		return c.Standing == Succeeded
	case c.Role == podspec.Ephemeral || !c.Started:
		return false
	case c.Spec.ReadinessProbe == nil || p.Readiness == podspec.ProbeSuccess:
		return true
	}
	return p.Readiness == podspec.NotProbed && c.reportedRunning() && c.Reported.Ready
}

// again says whether an attempt that ended is followed by another.
func (l *looker) again(c *Container) bool {
	if c.Latest != nil && l.memory.Stops[c.Latest.ID].Replace {
		return true
	}
	if restarts(l.pod, c, c.Exit.Code) {
		return true
	}
	// An init container that succeeded runs again in a new sandbox, since what it did there is
	// gone.
	return c.Role == podspec.Init && c.Exit.Code == 0 && !c.Current && l.pod.Spec.RestartPolicy != corev1.RestartPolicyNever
}

// restarts is the restart policy: the first rule of the container that matches, else its own
// policy, else the pod's.
func restarts(pod *corev1.Pod, c *Container, code int) bool {
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

// backOff fills in when a container that ended is started again. A container of a new spec does not
// pay for the old one's crashes.
func (l *looker) backOff(c *Container) {
	crash := l.memory.Crashes[c.Spec.Name]
	if c.Latest != nil && (changed(c) || l.memory.Stops[c.Latest.ID].Replace) {
		crash = CrashState{}
	}
	c.next = crash.next(c.Exit.Ended, l.want.crashMax())
	c.Delay = crash.CrashDelay(c.Exit.Ended, l.want.crashMax())
	if due := c.Exit.Ended.Add(c.Delay); due.After(l.now) {
		c.Due = due
	}
}

// settle gives a container of an ending pod, which is never restarted, the standing of its last
// end.
func (c *Container) settle() {
	c.Standing, c.Due, c.Delay = Failed, time.Time{}, 0
	if c.Exit.Code == 0 {
		c.Standing = Succeeded
	}
}

// Replaceable says that a container runs which was made from another spec than the pod has now, and
// that another is to take its place. It is stopped when the image of that one is there, so that one
// that cannot be had breaks nothing.
func (c *Container) Replaceable() bool {
	return c.Standing == Running && c.Latest.State == runtime.Running && c.Role.Serves() && changed(c)
}

// changed says that the newest attempt was made from another spec than the pod has now.
func changed(c *Container) bool {
	return c.Latest.SpecHash != "" && c.Latest.SpecHash != podspec.SpecHash(c.Spec)
}

// completed says that the pod's containers are through: an init container failed for good, or every
// app container ended for good, or, with restart policy Never, the sandbox that they were made in
// is gone.
func (l *looker) completed(v View) bool {
	done, apps, tried := 0, 0, false
	for i := range v.Containers {
		c := &v.Containers[i]
		tried = tried || c.Latest != nil || c.Exit != nil
		ended := c.Standing == Succeeded || c.Standing == Failed
		switch {
		case c.Role == podspec.Init && c.Standing == Failed:
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
	lost := l.have.Runtime.Sandbox == nil || !l.have.Runtime.Sandbox.Ready
	return lost && tried && l.pod.Spec.RestartPolicy == corev1.RestartPolicyNever
}

// stopped says that nothing runs and nothing is being started.
func (l *looker) stopped() bool {
	for i := range l.have.Runtime.Containers {
		if l.alive(&l.have.Runtime.Containers[i]) {
			return false
		}
	}
	for key := range l.have.Busy {
		if strings.HasPrefix(key, startPrefix) {
			return false
		}
	}
	return true
}

const startPrefix = "container/"

// alive says that a container runs, or may run. One that cannot be asked counts as dead once it was
// sent SIGKILL: removing it kills what is left.
func (l *looker) alive(c *runtime.Container) bool {
	return c.State == runtime.Running || c.State == runtime.Unknown && l.memory.Stops[c.ID].KillSent.IsZero()
}

// earlier is the earlier of two moments, where zero is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
