package podplan

import (
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// Messages of a container's end, in kubelet's words.
const (
	sandboxMessage  = "Pod sandbox changed, it will be killed and re-created."
	postStartFailed = "FailedPostStartHook"
)

// Reasons of failures that name none themselves, and the one that tells that a record was left
// behind.
const (
	reasonPull  = "ErrImagePull"
	reasonStart = "CreateContainerError"
	reasonRun   = "RunContainerError"
)

// Observe notes what the present moment changes: since when the pod, or one of its containers, is
// to end. have.Memory is taken to be m. It comes before Next.
func (m *Memory) Observe(want Want, have Have, now time.Time) {
	m.prepare()
	have.Memory = m
	if m.FirstSeen.IsZero() {
		m.FirstSeen = now
	}
	if want.Pod != nil {
		m.SpecGrace = specGrace(want.Pod)
	}
	m.observeTimes(want, have, now)
	v := Look(want, have, now)
	m.observeLost(v, have)
	m.Exceeded = m.Exceeded || v.Verdict != nil && v.Verdict.Reason == reasonDeadline
	m.observeEnd(want, v, now)
	if !v.Ends {
		m.observeStops(v, have, now)
		m.recallCrashes(v, now)
		m.observeResize(v, have)
	}
	for id := range m.Stops {
		if !holds(have.Runtime, id) {
			delete(m.Stops, id)
		}
	}
	for id := range m.Hooks {
		if !holds(have.Runtime, id) {
			delete(m.Hooks, id)
		}
	}
	for key := range m.Removal {
		if id, ok := strings.CutPrefix(key, removePrefix); ok && !holds(have.Runtime, id) {
			delete(m.Removal, key)
		}
	}
	if s := have.Runtime.Sandbox; s != nil {
		m.NextSandbox = max(m.NextSandbox, s.Attempt+1)
	}
}

func (m *Memory) prepare() {
	ensure(&m.Volumes)
	ensure(&m.Images)
	ensure(&m.Starts)
	ensure(&m.Hooks)
	ensure(&m.Stops)
	ensure(&m.Crashes)
	ensure(&m.Removal)
	ensure(&m.Ends)
}

func ensure[V any](m *map[string]V) {
	if *m == nil {
		*m = map[string]V{}
	}
}

func holds(p runtime.Pod, id string) bool {
	for i := range p.Containers {
		if p.Containers[i].ID == id {
			return true
		}
	}
	return false
}

// observeEnd keeps the deadline of an ending pod. A later want may bring it forward, never put it
// off.
func (m *Memory) observeEnd(want Want, v View, now time.Time) {
	if !v.Ends {
		m.TerminatingSince, m.Grace = time.Time{}, 0
		return
	}
	grace := m.endGrace(want, v)
	if m.TerminatingSince.IsZero() {
		m.TerminatingSince, m.Grace = now, grace
		return
	}
	if deadline := now.Add(grace); deadline.Before(m.TerminatingSince.Add(m.Grace)) {
		m.Grace = deadline.Sub(m.TerminatingSince)
	}
}

// endGrace is how long the containers of an ending pod have: what its deletion says, what its
// verdict says, else its own; at least a second.
func (m *Memory) endGrace(want Want, v View) time.Duration {
	if want.Pod == nil {
		return max(m.SpecGrace, minGrace)
	}
	grace := specGrace(want.Pod)
	if s := want.Pod.DeletionGracePeriodSeconds; v.Removed && s != nil {
		grace = seconds(*s)
	}
	if v.Verdict != nil && v.Verdict.Grace != nil {
		grace = min(grace, *v.Verdict.Grace)
	}
	return max(grace, minGrace)
}

func specGrace(pod *corev1.Pod) time.Duration {
	if s := pod.Spec.TerminationGracePeriodSeconds; s != nil {
		return seconds(*s)
	}
	return corev1.DefaultTerminationGracePeriodSeconds * time.Second
}

func seconds(s int64) time.Duration { return time.Duration(s) * time.Second }

// observeStops notes which running containers of a living pod must end. A stop that has begun is
// carried through.
func (m *Memory) observeStops(v View, have Have, now time.Time) {
	for i := range v.Containers {
		c := &v.Containers[i]
		if c.Standing != Running || c.Latest.State != runtime.Running || !m.Stops[c.Latest.ID].Since.IsZero() {
			continue
		}
		s := m.cause(v.Pod, c, have)
		if s.Message == "" {
			continue
		}
		s.Since = now
		m.Stops[c.Latest.ID] = s
	}
}

// recallCrashes takes up the back-offs that an earlier life of the agent had told the API of, so
// that its restart does not start every crashing container of the node at once.
func (m *Memory) recallCrashes(v View, now time.Time) {
	for i := range v.Containers {
		c := &v.Containers[i]
		if _, known := m.Crashes[c.Spec.Name]; known || c.Standing != Restarting || c.Latest == nil || c.Reported == nil {
			continue
		}
		w := c.Reported.State.Waiting
		if w == nil || w.Reason != ReasonCrash || c.Reported.ContainerID != podspec.StatusID(c.Latest.ID) {
			continue
		}
		text, _ := strings.CutPrefix(w.Message, "back-off ")
		text, _, _ = strings.Cut(text, " ")
		if delay, err := time.ParseDuration(text); err == nil && delay > 0 && delay <= crashMax {
			m.Crashes[c.Spec.Name] = CrashState{Delay: delay, LastRestart: podspec.OwnMoment(c.Latest.CreatedAt, now)}
		}
	}
}

// CrashMessage is what the API is told of a container in back-off; recallCrashes reads it.
func CrashMessage(pod *corev1.Pod, c *Container) string {
	return fmt.Sprintf("back-off %s restarting failed container=%s pod=%s_%s(%s)", c.Delay, c.Spec.Name, pod.Name, pod.Namespace, pod.UID)
}

// ReasonCrash is the reason of a container that waits for its back-off to end.
const ReasonCrash = "CrashLoopBackOff"

// cause is why a running container of a living pod must end; without a message when it need not.
func (m *Memory) cause(pod *corev1.Pod, c *Container, have Have) StopState {
	s := StopState{Grace: max(specGrace(pod), minGrace)}
	probes := have.Probes[c.Latest.ID]
	sandbox := have.Runtime.Sandbox
	switch {
	case sandbox == nil || !sandbox.Ready || !c.Current:
		s.Message = sandboxMessage
	case c.Role == podspec.Ephemeral:
	case m.Hooks[c.Latest.ID].PostStartError != "":
		s.Message = postStartFailed
	case c.Replaceable() && m.fetched(c):
		s.Message = fmt.Sprintf("Container %s definition changed, will be restarted", c.Spec.Name)
		s.Replace = true
	case c.resizeRestarts(pod):
		s.Message = fmt.Sprintf("Container %s resize requires restart", c.Spec.Name)
		s.Replace = true
	case probes.Startup == podspec.ProbeFailure:
		s.Message, s.Grace = failedProbe(pod, c, "startup", probes, s.Grace)
	case probes.Liveness == podspec.ProbeFailure:
		s.Message, s.Grace = failedProbe(pod, c, "liveness", probes, s.Grace)
	}
	return s
}

// fetched says that the image of the attempt that is to follow one that runs is there.
func (m *Memory) fetched(c *Container) bool {
	s := m.Images[c.Spec.Name]
	return s.of(c.Spec.Image, c.Attempt+1) && s.ImageID != ""
}

func failedProbe(pod *corev1.Pod, c *Container, kind string, p podspec.Probes, grace time.Duration) (string, time.Duration) {
	if p.Grace != nil {
		grace = max(seconds(*p.Grace), minGrace)
	}
	message := fmt.Sprintf("Container %s failed %s probe", c.Spec.Name, kind)
	if restarts(pod, c, lostCode) {
		message += ", will be restarted"
	}
	return message, grace
}

// Note takes the outcome of an action in.
func (m *Memory) Note(a Action, r ActionResult, now time.Time) {
	m.prepare()
	switch a := a.(type) {
	case MountVolume:
		v := m.Volumes[a.Volume]
		v.Mounted = v.Mounted || r.Err == nil
		v.Failure = v.Failure.after(r.Err, "", now)
		m.Volumes[a.Volume] = v
	case StartSandbox:
		m.Sandbox = m.Sandbox.after(r.Err, "", now)
	case EnsureImage:
		m.noteImage(a, r, now)
	case StartContainer:
		m.noteStart(a, r, now)
	case RunHook:
		m.noteHook(a, r)
	case StopContainer:
		m.noteStop(a, r, now)
	case UpdateResources, ResizePod:
		m.noteResize(a, r, m.Resize.Failure.after(r.Err, "", now))
	case RemoveContainer, RemoveSandbox, UnmountVolumes, RemoveCgroup, Cleanup:
		m.noteRemoval(a, r, now)
	}
}

// after is the state after one more try.
func (f FailureState) after(err error, fallback string, now time.Time) FailureState {
	if err == nil {
		return FailureState{}
	}
	next := FailureState{Reason: fallback, Message: err.Error(), Count: f.Count + 1, At: now}
	if known := (*podspec.ReasonError)(nil); errors.As(err, &known) {
		next.Reason = known.Reason
	}
	return next
}

func (m *Memory) noteImage(a EnsureImage, r ActionResult, now time.Time) {
	s := m.Images[a.Container]
	if s.Ref != a.Ref {
		s = ImageState{}
	}
	s.Ref, s.Attempt, s.ImageID = a.Ref, a.Attempt, r.ImageID
	s.Failure = s.Failure.after(r.Err, reasonPull, now)
	m.Images[a.Container] = s
}

func (m *Memory) noteStart(a StartContainer, r ActionResult, now time.Time) {
	f := m.Starts[a.Container].after(r.Err, reasonStart, now)
	f.Attempt = a.Attempt
	if r.Err == nil {
		delete(m.Starts, a.Container)
	} else {
		m.Starts[a.Container] = f
		delete(m.Images, a.Container) // it may have been removed meanwhile: look again
	}
	if a.Delay > 0 && (r.Err == nil || f.Reason == reasonRun) {
		m.Crashes[a.Container] = CrashState{Delay: a.Delay, LastRestart: now}
	}
}

func (m *Memory) noteHook(a RunHook, r ActionResult) {
	h := m.Hooks[a.ContainerID]
	if a.Kind == podspec.PreStop {
		h.PreStopDone = true
	} else {
		h.PostStartDone = true
		if r.Err != nil {
			h.PostStartError = r.Err.Error()
		}
	}
	m.Hooks[a.ContainerID] = h
}

func (m *Memory) noteStop(a StopContainer, r ActionResult, now time.Time) {
	s := m.Stops[a.ContainerID]
	s.Failure = s.Failure.after(r.Err, "", now)
	switch {
	case r.Err != nil:
	case a.Kill:
		s.KillSent = now
	default:
		s.TermSent = now
	}
	m.Stops[a.ContainerID] = s
}

func (m *Memory) noteRemoval(a Action, r ActionResult, now time.Time) {
	if r.Err != nil {
		m.Removal[a.Key()] = m.Removal[a.Key()].after(r.Err, "", now)
		return
	}
	delete(m.Removal, a.Key())
	if s, ok := a.(RemoveSandbox); ok {
		m.NextSandbox = max(m.NextSandbox, s.Attempt+1)
	}
}
