package status

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/podplan"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// Reasons of container states, and the texts that go with a container whose record is lost.
const (
	reasonLost   = "ContainerStatusUnknown"
	lostRunning  = "The container could not be located when the pod was deleted.  The container used to be Running"
	lostAtEnd    = "The container could not be located when the pod was terminated"
	lostExitCode = 137
)

// container is the status of one container.
func (p *pod) container(c *podplan.ContainerView) corev1.ContainerStatus {
	s := corev1.ContainerStatus{Name: c.Spec.Name, Image: c.Spec.Image, Ready: p.containerReady(c)}
	if c.Role != podspec.Ephemeral {
		started := c.Started
		s.Started = &started
	}
	switch {
	case c.Latest != nil:
		s.RestartCount = int32(c.Latest.Attempt)
		s.Image, s.ImageID, s.ContainerID = c.Latest.Image, c.Latest.ImageDigest, podspec.StatusID(c.Latest.ID)
		s.VolumeMounts = mounts(c.Spec)
		resources(&s, c)
	case c.Reported != nil:
		s.RestartCount = c.Reported.RestartCount
		s.Image, s.ImageID, s.ContainerID = c.Reported.Image, c.Reported.ImageID, c.Reported.ContainerID
	}
	if c.Latest == nil && p.state.Resize.Pending.Reason != "" {
		// Until the container has a record, nothing else keeps what it was allocated when the spec
		// requests something else.
		s.AllocatedResources, s.Resources = c.Spec.Resources.Requests.DeepCopy(), c.Spec.Resources.DeepCopy()
	}
	s.State, s.LastTerminationState = p.states(c)
	return s
}

func (p *pod) containerReady(c *podplan.ContainerView) bool {
	if c.Latest == nil {
		return c.Ready(podspec.Probes{})
	}
	return c.Ready(p.observed.Probes[c.Latest.ID])
}

// states are the container's present state and that of the end before it.
func (p *pod) states(c *podplan.ContainerView) (state, last corev1.ContainerState) {
	if c.Latest == nil {
		return p.statesFromReport(c)
	}
	last = p.lastState(c)
	switch c.Latest.State {
	case runtime.Running:
		if c.HookPending {
			return corev1.ContainerState{Waiting: p.waitingForHook(c)}, last
		}
		return running(c.Latest), last
	case runtime.Unknown:
		if c.Reported != nil && c.Reported.ContainerID == podspec.StatusID(c.Latest.ID) {
			return c.Reported.State, last
		}
		return running(c.Latest), last
	case runtime.Exited:
		return p.after(c, p.terminated(c, c.Latest), last)
	case runtime.Created:
	}
	waiting, _ := p.waiting(c)
	return corev1.ContainerState{Waiting: waiting}, last
}

func running(r *runtime.Container) corev1.ContainerState {
	return corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(r.StartedAt)}}
}

// after are the states of a container whose newest attempt has ended. The state shows that end
// until the next attempt waits for something specific.
func (p *pod) after(c *podplan.ContainerView, end *corev1.ContainerStateTerminated, last corev1.ContainerState) (corev1.ContainerState, corev1.ContainerState) {
	ended := corev1.ContainerState{Terminated: end}
	if c.State != podplan.Restarting {
		return ended, last
	}
	if waiting, specific := p.waiting(c); specific {
		return corev1.ContainerState{Waiting: waiting}, ended
	}
	return ended, last
}

// lastState is the end before the newest attempt: by the host's record, else as it was reported.
func (p *pod) lastState(c *podplan.ContainerView) corev1.ContainerState {
	old := c.Reported
	switch {
	case c.Previous != nil && c.Previous.State == runtime.Exited:
		return corev1.ContainerState{Terminated: p.terminated(c, c.Previous)}
	case old == nil:
		return corev1.ContainerState{}
	case old.ContainerID == podspec.StatusID(c.Latest.ID):
		if t := old.LastTerminationState.Terminated; t != nil && t.ContainerID == old.ContainerID {
			// that was the newest attempt's own end, reported while it waited
			return corev1.ContainerState{}
		}
		return old.LastTerminationState
	case old.State.Terminated != nil:
		return old.State
	}
	return old.LastTerminationState
}

// statesFromReport are the states of a container of which the host has no record.
func (p *pod) statesFromReport(c *podplan.ContainerView) (state, last corev1.ContainerState) {
	waiting, _ := p.waiting(c)
	state.Waiting = waiting
	if c.Reported != nil {
		switch old := c.Reported.State; {
		case old.Running != nil:
			end := &corev1.ContainerStateTerminated{
				ExitCode: lostExitCode, Reason: reasonLost, Message: lostRunning, ContainerID: c.Reported.ContainerID,
			}
			if c.State == podplan.Restarting {
				return state, corev1.ContainerState{Terminated: end}
			}
			return corev1.ContainerState{Terminated: end}, c.Reported.LastTerminationState
		case old.Terminated != nil:
			return p.after(c, old.Terminated, c.Reported.LastTerminationState)
		}
		last = c.Reported.LastTerminationState
	}
	if p.Stopped && c.Role == podspec.App && p.Initialized {
		return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			ExitCode: lostExitCode, Reason: reasonLost, Message: lostAtEnd,
		}}, last
	}
	return state, last
}

// terminated tells how an attempt ended.
func (p *pod) terminated(c *podplan.ContainerView, r *runtime.Container) *corev1.ContainerStateTerminated {
	t := &corev1.ContainerStateTerminated{
		ExitCode: int32(r.ExitCode),
		Message:  p.observed.Messages[r.ID], ContainerID: podspec.StatusID(r.ID),
		StartedAt: metav1.NewTime(r.StartedAt), FinishedAt: metav1.NewTime(r.FinishedAt),
	}
	if r.StartedAt.IsZero() {
		t.StartedAt = metav1.NewTime(r.CreatedAt)
	}
	switch {
	case r.StartError != "":
		t.Reason, t.Message = "StartError", r.StartError
	case r.OOMKilled:
		t.Reason = "OOMKilled"
	case r.ExitCode == 0:
		t.Reason = "Completed"
	default:
		t.Reason = "Error"
	}
	if t.Message == "" {
		t.Message = reportedMessage(c.Reported, t.ContainerID)
	}
	return t
}

// reportedMessage is the termination message that the status had for an attempt.
func reportedMessage(old *corev1.ContainerStatus, id string) string {
	if old == nil {
		return ""
	}
	for _, s := range []corev1.ContainerState{old.State, old.LastTerminationState} {
		if s.Terminated != nil && s.Terminated.ContainerID == id {
			return s.Terminated.Message
		}
	}
	return ""
}

// waiting is what the next attempt of a container waits for; specific says that it does not only
// wait for what comes before it.
func (p *pod) waiting(c *podplan.ContainerView) (w *corev1.ContainerStateWaiting, specific bool) {
	if old := p.stillTrue(c); old != nil {
		return old, true
	}
	start, image := p.state.Starts[c.Spec.Name], p.state.Images[c.Spec.Name]
	failed := &corev1.ContainerStateWaiting{Reason: start.Reason, Message: start.Message}
	switch {
	case start.Count > 0 && start.Attempt == c.Attempt:
		return failed, true
	case c.Due.After(p.now):
		return p.crashing(c), true
	case image.Ref == c.Spec.Image && image.Attempt == c.Attempt && image.Failure.Count > 0:
		return pullFailure(image, p.now), true
	case c.Delay > 0: // until it has started
		return p.crashing(c), true
	case start.Count > 0 && c.State == podplan.Restarting:
		return failed, true
	}
	return p.notStarted(), false
}

// stillTrue is what the status said of a waiting container, when the agent cannot know better: the
// pod ends, or the agent has restarted and tried nothing yet.
func (p *pod) stillTrue(c *podplan.ContainerView) *corev1.ContainerStateWaiting {
	if c.Reported == nil || c.Reported.State.Waiting == nil {
		return nil
	}
	_, tried := p.state.Images[c.Spec.Name]
	_, started := p.state.Starts[c.Spec.Name]
	if p.Ends || c.Latest == nil && !tried && !started {
		return c.Reported.State.Waiting.DeepCopy()
	}
	return nil
}

func (p *pod) crashing(c *podplan.ContainerView) *corev1.ContainerStateWaiting {
	return &corev1.ContainerStateWaiting{Reason: podplan.ReasonCrash, Message: podplan.CrashMessage(p.Pod, c)}
}

// notStarted is the state of a container that waits for what comes before it.
func (p *pod) notStarted() *corev1.ContainerStateWaiting {
	if len(p.Pod.Spec.InitContainers) > 0 {
		return &corev1.ContainerStateWaiting{Reason: "PodInitializing"}
	}
	return &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}
}

func (p *pod) waitingForHook(c *podplan.ContainerView) *corev1.ContainerStateWaiting {
	if text := p.state.Hooks[c.Latest.ID].PostStartError; text != "" {
		return &corev1.ContainerStateWaiting{Reason: "PostStartHookError", Message: text}
	}
	return p.notStarted()
}

// pullFailure shows a failure with its own reason at first, then as a back-off until the next try.
// Failures that waiting does not repair keep their reason.
func pullFailure(s podplan.ImageState, now time.Time) *corev1.ContainerStateWaiting {
	f := s.Failure
	switch f.Reason {
	case "ErrImageNeverPull", "InvalidImageName", "ImageInspectError":
		return &corev1.ContainerStateWaiting{Reason: f.Reason, Message: f.Message}
	}
	if now.Before(f.At.Add(podplan.ErrorShown)) {
		return &corev1.ContainerStateWaiting{Reason: f.Reason, Message: f.Message}
	}
	return &corev1.ContainerStateWaiting{
		Reason: "ImagePullBackOff", Message: fmt.Sprintf("Back-off pulling image %q: %s: %s", s.Ref, f.Reason, f.Message),
	}
}

// mounts as kubelet reports them: what recursive read-only mounts (KEP-3857) came to.
func mounts(c *corev1.Container) []corev1.VolumeMountStatus {
	var out []corev1.VolumeMountStatus
	for _, m := range c.VolumeMounts {
		s := corev1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			mode := corev1.RecursiveReadOnlyDisabled
			if m.RecursiveReadOnly != nil && *m.RecursiveReadOnly != corev1.RecursiveReadOnlyDisabled {
				mode = corev1.RecursiveReadOnlyEnabled
			}
			s.RecursiveReadOnly = &mode
		}
		out = append(out, s)
	}
	return out
}

// resources fills in what the container was allocated, and what it runs with: by its record, else
// by the settings of its cgroup.
func resources(s *corev1.ContainerStatus, c *podplan.ContainerView) {
	if c.Role == podspec.Ephemeral {
		return
	}
	s.AllocatedResources = c.Spec.Resources.Requests.DeepCopy()
	s.Resources = c.Spec.Resources.DeepCopy()
	s.Resources.Claims = nil
	applied := c.Latest.Resources
	switch {
	case c.Latest.State != runtime.Running:
		return
	case c.Applied != nil:
		if c.Resize {
			*s.Resources = c.Applied.Into(*s.Resources)
		}
		return
	case applied == nil || s.Resources.Limits == nil:
		return
	}
	if cpu := applied.CPU; cpu != nil && cpu.Quota != nil && cpu.Period != nil && *cpu.Quota > 0 && *cpu.Period > 0 {
		limit(s, corev1.ResourceCPU, resource.NewMilliQuantity(*cpu.Quota*1000/int64(*cpu.Period), resource.DecimalSI))
	}
	if memory := applied.Memory; memory != nil && memory.Limit != nil && *memory.Limit > 0 {
		limit(s, corev1.ResourceMemory, resource.NewQuantity(*memory.Limit, resource.BinarySI))
	}
}

// limit replaces a limit that differs; an equal one stays as it was written.
func limit(s *corev1.ContainerStatus, name corev1.ResourceName, applied *resource.Quantity) {
	if old, ok := s.Resources.Limits[name]; ok && old.Cmp(*applied) != 0 {
		s.Resources.Limits[name] = *applied
	}
}
