package podplan

import (
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

// ReasonCrash is the reason of a container that waits for its back-off to end.
const ReasonCrash = "CrashLoopBackOff"

// observeTimes converts times in records and in the reported status into own moments.
func (s *State) observeTimes(w *Want, o *Observed, now time.Time) {
	if s.FirstSeen.IsZero() {
		s.FirstSeen = now
	}
	if s.Began.IsZero() {
		s.Began = now
	}
	if start := w.Reported.StartTime; start != nil && !s.StartReported {
		s.Began, s.StartReported = earlier(s.Began, podspec.OwnMoment(start.Time, now)), true
	}
	for i := range o.Runtime.Containers {
		c := &o.Runtime.Containers[i]
		if _, known := s.Ends[c.ID]; !known && c.State == runtime.Exited {
			s.Ends = s.Ends.with(c.ID, podspec.OwnMoment(c.FinishedAt, now))
		}
	}
}

// ended is the own moment at which an attempt ended, by its key in Ends, else by its record.
func (s *State) ended(key string, finished, now time.Time) time.Time {
	if at, known := s.Ends[key]; known {
		return at
	}
	return podspec.OwnMoment(finished, now)
}

// lostKey takes the place in State.Ends of the id of a container that the host has no record of.
func lostKey(name string) string { return "lost/" + name }

// observe takes what the view shows into the state: since when the pod, or one of its containers,
// must end. Where that changes the view, it changes the view too.
func (s *State) observe(v *viewer, view *PodView) {
	if view.Pod != nil {
		s.SpecGrace = specGrace(view.Pod)
	}
	s.observeLost(view)
	s.Exceeded = s.Exceeded || view.Termination != nil && view.Termination.Reason == reasonDeadline
	s.observeEnd(v, view)
	if !view.Ends {
		s.observeStops(v, view)
		s.recallCrashes(v, view)
		s.observeResize(v, view)
	}
	s.forget(view, &v.observed.Runtime)
	if sandbox := v.observed.Runtime.Sandbox; sandbox != nil {
		s.NextSandbox = max(s.NextSandbox, sandbox.Attempt+1)
	}
}

// observeLost keeps when those containers ended of which only the API has a record.
func (s *State) observeLost(view *PodView) {
	for i := range view.Containers {
		c := &view.Containers[i]
		if c.Exit == nil || !c.Exit.Lost {
			continue
		}
		if key := lostKey(c.Spec.Name); !s.Ends[key].Equal(c.Exit.Ended) {
			s.Ends = s.Ends.with(key, c.Exit.Ended)
		}
	}
}

// forget drops what belongs to attempts that no record is of any more.
func (s *State) forget(view *PodView, rt *runtime.Pod) {
	gone := func(id string) bool {
		for i := range rt.Containers {
			if rt.Containers[i].ID == id {
				return false
			}
		}
		return true
	}
	s.Stops, s.Hooks = s.Stops.without(gone), s.Hooks.without(gone)
	s.Ends = s.Ends.without(func(key string) bool {
		for i := range view.Containers {
			if c := &view.Containers[i]; c.Exit != nil && c.Exit.Lost && lostKey(c.Spec.Name) == key {
				return false
			}
		}
		return gone(key)
	})
	s.Removals = s.Removals.without(func(key string) bool {
		id, of := strings.CutPrefix(key, removePrefix)
		return of && gone(id)
	})
}

// observeEnd keeps the deadline of an ending pod. A later want may bring it forward, never put it
// off.
func (s *State) observeEnd(v *viewer, view *PodView) {
	if !view.Ends {
		s.TerminatingSince, s.Grace = time.Time{}, 0
		return
	}
	grace := s.endGrace(view)
	if s.TerminatingSince.IsZero() {
		s.TerminatingSince, s.Grace = v.now, grace
		return
	}
	if deadline := v.now.Add(grace); deadline.Before(s.TerminatingSince.Add(s.Grace)) {
		s.Grace = deadline.Sub(s.TerminatingSince)
	}
}

// endGrace is how long the containers of an ending pod have: by its deletion, else its own; less
// when its termination says so; at least a second.
func (s *State) endGrace(view *PodView) time.Duration {
	if view.Pod == nil {
		return max(s.SpecGrace, minGrace)
	}
	grace := specGrace(view.Pod)
	if own := view.Pod.DeletionGracePeriodSeconds; view.Removed && own != nil {
		grace = seconds(*own)
	}
	if view.Termination != nil && view.Termination.Grace != nil {
		grace = min(grace, *view.Termination.Grace)
	}
	return max(grace, minGrace)
}

func specGrace(pod *corev1.Pod) time.Duration {
	if s := pod.Spec.TerminationGracePeriodSeconds; s != nil {
		return seconds(*s)
	}
	return corev1.DefaultTerminationGracePeriodSeconds * time.Second
}

// observeStops keeps which running containers of a living pod must end. A stop that has begun is
// carried through.
func (s *State) observeStops(v *viewer, view *PodView) {
	for i := range view.Containers {
		c := &view.Containers[i]
		if c.State != Running || c.Latest.State != runtime.Running || !s.Stops[c.Latest.ID].Since.IsZero() {
			continue
		}
		stop := s.stopCause(view.Pod, c, v.observed)
		if stop.Message == "" {
			continue
		}
		stop.Since = v.now
		s.Stops = s.Stops.with(c.Latest.ID, stop)
	}
}

// stopCause is why a running container of a living pod must end; without a message when it need
// not.
func (s *State) stopCause(pod *corev1.Pod, c *ContainerView, o *Observed) StopState {
	stop := StopState{Grace: max(specGrace(pod), minGrace)}
	probes, sandbox := o.Probes[c.Latest.ID], o.Runtime.Sandbox
	switch {
	case sandbox == nil || !sandbox.Ready || !c.Current:
		stop.Message = sandboxMessage
	case c.Role == podspec.Ephemeral:
	case s.Hooks[c.Latest.ID].PostStartError != "":
		stop.Message = postStartFailed
	case c.Replaceable() && s.hasImage(c):
		stop.Message = fmt.Sprintf("Container %s definition changed, will be restarted", c.Spec.Name)
		stop.Replace = true
	case c.resizeRestarts(pod):
		stop.Message = fmt.Sprintf("Container %s resize requires restart", c.Spec.Name)
		stop.Replace = true
	case probes.Startup == podspec.ProbeFailure:
		stop.Message, stop.Grace = failedProbe(pod, c, "startup", probes, stop.Grace)
	case probes.Liveness == podspec.ProbeFailure:
		stop.Message, stop.Grace = failedProbe(pod, c, "liveness", probes, stop.Grace)
	}
	return stop
}

// hasImage says that the image of a running container's successor is there.
func (s *State) hasImage(c *ContainerView) bool {
	i := s.Images[c.Spec.Name]
	return i.of(c.Spec.Image, c.Attempt+1) && i.ImageID != ""
}

func failedProbe(pod *corev1.Pod, c *ContainerView, kind string, p podspec.Probes, grace time.Duration) (string, time.Duration) {
	if p.Grace != nil {
		grace = max(seconds(*p.Grace), minGrace)
	}
	message := fmt.Sprintf("Container %s failed %s probe", c.Spec.Name, kind)
	if restarts(pod, c, lostCode) {
		message += ", will be restarted"
	}
	return message, grace
}

// recallCrashes takes up the back-offs that the agent reported before its restart, so that it does
// not start every crashing container of the node at once.
func (s *State) recallCrashes(v *viewer, view *PodView) {
	for i := range view.Containers {
		c := &view.Containers[i]
		if _, known := s.Crashes[c.Spec.Name]; known || c.State != Restarting || c.Latest == nil || c.Reported == nil {
			continue
		}
		waiting := c.Reported.State.Waiting
		if waiting == nil || waiting.Reason != ReasonCrash || c.Reported.ContainerID != podspec.StatusID(c.Latest.ID) {
			continue
		}
		text, _ := strings.CutPrefix(waiting.Message, "back-off ")
		text, _, _ = strings.Cut(text, " ")
		if delay, err := time.ParseDuration(text); err == nil && delay > 0 && delay <= crashMax {
			s.Crashes = s.Crashes.with(c.Spec.Name, CrashState{Delay: delay, LastRestart: podspec.OwnMoment(c.Latest.CreatedAt, v.now)})
			v.backOff(c)
		}
	}
}

// CrashMessage is the status message of a container in back-off; recallCrashes reads it.
func CrashMessage(pod *corev1.Pod, c *ContainerView) string {
	return fmt.Sprintf("back-off %s restarting failed container=%s pod=%s_%s(%s)", c.Delay, c.Spec.Name, pod.Name, pod.Namespace, pod.UID)
}
