package podplan

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// Standing is where a container stands in its life:
//
//	Pending ─► Running ─► Restarting ─► Running …
//	              │
//	              └─► Succeeded, Failed  (for good)
//
// Nothing leads out of Succeeded and Failed but a new sandbox for an init container. A container
// whose task cannot be asked counts as Running: what cannot be asked is not known to have ended.
type Standing string

// The standings.
const (
	Pending    Standing = "Pending"    // no attempt of it ever ran
	Running    Standing = "Running"    // an attempt runs
	Restarting Standing = "Restarting" // the newest attempt ended and another will follow
	Succeeded  Standing = "Succeeded"
	Failed     Standing = "Failed"
)

// Container is one container of the pod spec together with what is known of it.
type Container struct {
	Spec     *corev1.Container
	Role     podspec.Role
	Standing Standing
	// Latest and Previous are records of the host; nil when there are none.
	Latest, Previous *runtime.Container
	Reported         *corev1.ContainerStatus // nil when the API holds none
	// the end of the newest attempt; nil if there is none or it runs
	Exit *Exit
	// Attempt is the one to be started next; of a running container the one that runs.
	Attempt int
	// Current says that the newest attempt belongs to the sandbox that there is now.
	Current bool
	// Started says that it runs, its postStart hook is done, and its startup probe has succeeded.
	Started bool
	// HookPending says that its postStart hook has not ended yet.
	HookPending bool
	// Applied are the sizes that the newest attempt was made with or given since; nil when its
	// record does not say.
	Applied *podspec.Resources
	// Resize says that it runs with other sizes than it is to have.
	Resize bool
	Due    time.Time     // when its back-off ends; zero when it may be started at once
	Delay  time.Duration // the back-off before its next start; 0 for none
	next   time.Duration // the back-off after its next start
}

// Exit is how an attempt ended.
type Exit struct {
	Code     int
	Finished time.Time // by the wall clock of whoever wrote it down
	Ended    time.Time // as an own moment
	// Lost says that the host has no record of the attempt: the API's is all there is.
	Lost bool
}

// View is a pod as the plan and the status see it.
type View struct {
	Pod        *corev1.Pod // nil for a pod that only the host knows
	Containers []Container // init, app, ephemeral; each in the order of the spec
	// Initialized says that an app container runs or was created in the current sandbox: init
	// containers are behind it.
	Initialized bool
	// Ends says that no container of the pod may start any more; Removed, that nothing may be left
	// of it.
	Ends, Removed bool
	// Completed says that it ends because its containers did.
	Completed bool
	// Verdict is why the pod has failed whatever its containers did; nil if it has not.
	Verdict *podspec.Termination
	// Stopped says that the pod ends and that no container of it runs or will.
	Stopped bool
	// wake is the next moment at which the view changes by itself.
	wake time.Time
}

// Look says how the pod stands. It is what Next plans from and what status.Pod reports.
func Look(want Want, have Have, now time.Time) View {
	l := looker{want: want, have: have, memory: memoryOf(have), now: now}
	v := View{Pod: want.Pod}
	if want.Pod == nil {
		v.Ends, v.Removed = true, true
		v.Stopped = l.stopped()
		return v
	}
	l.pod = want.Pod
	v.Containers = l.containers()
	v.Removed = want.Pod.DeletionTimestamp != nil
	v.Completed = l.completed(v)
	v.Verdict, v.wake = l.verdict(v.Removed || v.Completed)
	v.Ends = v.Removed || v.Verdict != nil || v.Completed || podspec.Terminal(want.Reported.Phase)
	v.Stopped = v.Ends && l.stopped()
	for i := range v.Containers {
		c := &v.Containers[i]
		if c.Role == podspec.App && c.Latest != nil && (c.Current || v.Ends || c.Standing == Running) {
			v.Initialized = true
		}
		if v.Ends && c.Standing == Restarting {
			c.settle()
		}
	}
	return v
}

// memoryOf never returns nil.
func memoryOf(have Have) *Memory {
	if have.Memory == nil {
		return &Memory{}
	}
	return have.Memory
}

// reasonDeadline is the reason of a pod that was active for longer than its spec allows.
const reasonDeadline = "DeadlineExceeded"

// verdict is why the pod fails as a whole, and when that could change by itself. A deadline that
// passes while the pod ends for another reason is no verdict.
func (l *looker) verdict(ending bool) (*podspec.Termination, time.Time) {
	if l.want.Outcome != nil {
		return l.want.Outcome, time.Time{}
	}
	limit := l.pod.Spec.ActiveDeadlineSeconds
	if limit == nil || podspec.Terminal(l.want.Reported.Phase) {
		return nil, time.Time{}
	}
	if !l.memory.Exceeded && l.want.Reported.Reason != reasonDeadline {
		deadline := l.began().Add(seconds(*limit))
		switch {
		case ending:
			return nil, time.Time{}
		case l.now.Before(deadline):
			return nil, deadline
		}
	}
	return &podspec.Termination{Reason: reasonDeadline, Message: "Pod was active on the node longer than the specified deadline"}, time.Time{}
}

// began is when the node took the pod in, as an own moment.
func (l *looker) began() time.Time {
	if l.memory.Began.IsZero() {
		return podspec.OwnMoment(startTime(l.want, l.memory, l.now), l.now)
	}
	return l.memory.Began
}

// StartTime is when the node took the pod in, as the API is told.
func StartTime(want Want, have Have, now time.Time) time.Time {
	return startTime(want, memoryOf(have), now)
}

func startTime(want Want, m *Memory, now time.Time) time.Time {
	switch {
	case want.Reported.StartTime != nil:
		return want.Reported.StartTime.Time
	case !m.FirstSeen.IsZero():
		return m.FirstSeen
	}
	return now
}

// looker makes a View.
type looker struct {
	want   Want
	have   Have
	pod    *corev1.Pod
	memory *Memory
	now    time.Time
}

func (l *looker) containers() []Container {
	spec := &l.pod.Spec
	out := make([]Container, 0, len(spec.InitContainers)+len(spec.Containers)+len(spec.EphemeralContainers))
	for role, c := range podspec.Containers(l.pod) {
		out = append(out, l.container(c, role))
	}
	return out
}

func (l *looker) container(spec *corev1.Container, role podspec.Role) Container {
	c := Container{Spec: spec, Role: role, Latest: l.have.Runtime.Latest(spec.Name), Reported: podspec.Status(&l.want.Reported, spec.Name)}
	if c.Latest != nil {
		c.Previous = l.have.Runtime.Previous(spec.Name)
	}
	c.Attempt = NextAttempt(l.want, l.have, spec.Name)
	c.Exit = l.exit(&c)
	c.Current = l.current(&c)
	l.stand(&c)
	c.resizing(l.pod)
	return c
}

// NextAttempt is the attempt that a container is to be started as. An attempt that was created and
// never started is taken up again, unless its sandbox is gone.
func NextAttempt(want Want, have Have, name string) int {
	next := 0
	if c := have.Runtime.Latest(name); c != nil {
		next = c.Attempt + 1
		if c.State == runtime.Running || c.State == runtime.Unknown || c.State == runtime.Created && inSandbox(c, have.Runtime.Sandbox) {
			next = c.Attempt
		}
	}
	if s := podspec.Status(&want.Reported, name); s != nil && have.Runtime.Latest(name) == nil {
		next = max(next, attemptsOf(s))
	}
	return next
}

// attemptsOf is how many attempts the API knows of.
func attemptsOf(s *corev1.ContainerStatus) int {
	if s.State.Running == nil && s.State.Terminated == nil && s.LastTerminationState.Terminated == nil {
		return int(s.RestartCount)
	}
	return int(s.RestartCount) + 1
}

// inSandbox says whether an attempt was made in this sandbox. Without a record of that, what runs
// is taken to be.
func inSandbox(c *runtime.Container, s *runtime.Sandbox) bool {
	switch {
	case s == nil:
		return false
	case c.SandboxID != "":
		return c.SandboxID == s.ID
	}
	return c.State == runtime.Running || c.CreatedAt.IsZero() || !c.CreatedAt.Before(s.CreatedAt)
}

func (l *looker) current(c *Container) bool {
	s := l.have.Runtime.Sandbox
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

// exit is how the newest attempt ended, by the host's record, else by what the API was told.
func (l *looker) exit(c *Container) *Exit {
	if r := c.Latest; r != nil {
		if r.State != runtime.Exited {
			return nil
		}
		return &Exit{Code: r.ExitCode, Finished: r.FinishedAt, Ended: l.memory.ended(r.ID, r.FinishedAt, l.now)}
	}
	if c.Reported == nil {
		return nil
	}
	for _, s := range []corev1.ContainerState{c.Reported.State, c.Reported.LastTerminationState} {
		switch {
		case s.Terminated != nil:
			at := s.Terminated.FinishedAt.Time
			return &Exit{Code: int(s.Terminated.ExitCode), Finished: at, Ended: l.memory.ended(lostKey(c.Spec.Name), at, l.now), Lost: true}
		case s.Running != nil:
			return &Exit{Code: lostCode, Ended: l.memory.ended(lostKey(c.Spec.Name), time.Time{}, l.now), Lost: true}
		}
	}
	return nil
}

// lostCode is the exit code that an attempt counts with when the host has lost it.
const lostCode = 137
