package podplan

import (
	"fmt"
	"time"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// UpdateResources changes the limits of a running container.
type UpdateResources struct {
	Container, ContainerID string
	To                     string // podspec.Resources as text
}

// String is one line.
func (a UpdateResources) String() string {
	return fmt.Sprintf("update resources of %s: %s", a.Container, a.To)
}

// Key is one attempt, whatever its new limits.
func (a UpdateResources) Key() string { return resizePrefix + a.ContainerID }

// Policy lets it run to its end.
func (UpdateResources) Policy() Policy { return Policy{Operation: "update_container_resources"} }

func (UpdateResources) complete(s *State, r ActionResult, now time.Time) { s.Resize.fail(r, now) }

func (a UpdateResources) simulate(h *simulation) {
	if c := h.container(a.ContainerID); c != nil && c.State == runtime.Running {
		c.SpecResources = a.To
	}
}
