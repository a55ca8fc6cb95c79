package podplan

import (
	"fmt"
	"time"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// StartContainer creates and starts one attempt.
type StartContainer struct {
	Container string
	Attempt   int
	ImageID   string
	// Delay is the back-off from this start on; 0 for one that is no restart.
	Delay time.Duration
}

// Reasons of a failed start: of one that names none itself, and of one that left the record of an
// attempt behind.
const (
	reasonStart = "CreateContainerError"
	reasonRun   = "RunContainerError"
)

// String is one line.
func (a StartContainer) String() string {
	return fmt.Sprintf("start container %s attempt %d", a.Container, a.Attempt)
}

// Key is one container, whatever the attempt.
func (a StartContainer) Key() string { return startPrefix + a.Container }

// Policy cancels it when the pod must end.
func (StartContainer) Policy() Policy {
	return Policy{Operation: "start_container", Cancel: CancelAtEnd}
}

func (a StartContainer) complete(s *State, r ActionResult, now time.Time) {
	f := s.Starts[a.Container].after(r.Err, reasonStart, now)
	f.Attempt = a.Attempt
	if r.Err == nil {
		s.Starts = s.Starts.drop(a.Container)
	} else {
		s.Starts = s.Starts.with(a.Container, f)
		s.Images = s.Images.drop(a.Container) // somebody may have removed it meanwhile
	}
	if a.Delay > 0 && (r.Err == nil || f.Reason == reasonRun) {
		s.Crashes = s.Crashes.with(a.Container, CrashState{Delay: a.Delay, LastRestart: now})
	}
}

func (a StartContainer) simulate(h *simulation) {
	c := h.container(runtime.ContainerID(h.want.UID, a.Container, a.Attempt))
	if c == nil {
		if h.observed.Runtime.Sandbox == nil {
			return // it went meanwhile
		}
		h.observed.Runtime.Containers = append(h.observed.Runtime.Containers, runtime.Container{
			ID: runtime.ContainerID(h.want.UID, a.Container, a.Attempt), Name: a.Container, Attempt: a.Attempt, ImageID: a.ImageID,
			Recorded: runtime.Recorded{ImageDigest: a.ImageID}, SandboxID: h.observed.Runtime.Sandbox.ID, CreatedAt: h.now,
		})
		c = &h.observed.Runtime.Containers[len(h.observed.Runtime.Containers)-1]
	}
	c.State, c.StartedAt = runtime.Running, h.now
	if h.want.Pod == nil {
		return
	}
	if spec, _ := podspec.Find(h.want.Pod, a.Container); spec != nil {
		c.Image, c.SpecHash, c.SpecResources = spec.Image, podspec.SpecHash(spec), podspec.ResourcesOf(h.want.Pod, spec).String()
	}
}
