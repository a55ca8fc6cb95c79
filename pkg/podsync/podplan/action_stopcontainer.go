package podplan

import (
	"fmt"
	"time"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// StopContainer signals a container: its image's stop signal, or SIGKILL with Kill.
type StopContainer struct {
	Container, ContainerID string
	Kill                   bool
	Message                string // why, for the Killing event
}

// String is one line.
func (a StopContainer) String() string {
	if a.Kill {
		return fmt.Sprintf("kill container %s: %s", a.Container, a.Message)
	}
	return fmt.Sprintf("stop container %s: %s", a.Container, a.Message)
}

// Key is one attempt, for either signal.
func (a StopContainer) Key() string { return "stop/" + a.ContainerID }

// Policy lets it run to its end.
func (StopContainer) Policy() Policy { return Policy{Operation: "stop_container"} }

func (a StopContainer) complete(s *State, r ActionResult, now time.Time) {
	stop := s.Stops[a.ContainerID]
	stop.Failure = stop.Failure.after(r.Err, "", now)
	switch {
	case r.Err != nil:
	case a.Kill:
		stop.KillSent = now
	default:
		stop.TermSent = now
	}
	s.Stops = s.Stops.with(a.ContainerID, stop)
}

func (a StopContainer) simulate(h *simulation) {
	c := h.container(a.ContainerID)
	if c == nil || c.State != runtime.Running {
		return
	}
	c.State, c.ExitCode, c.FinishedAt = runtime.Exited, 143, h.now // of a process that heeds SIGTERM
	if a.Kill {
		c.ExitCode = 137
	}
}
