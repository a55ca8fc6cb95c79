package podplan

import (
	"fmt"
	"slices"
	"time"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// RemoveContainer removes one attempt's record, snapshot and pipes.
type RemoveContainer struct{ Container, ContainerID string }

// String is one line.
func (a RemoveContainer) String() string {
	return fmt.Sprintf("remove container %s %.12s", a.Container, a.ContainerID)
}

// Key is one attempt.
func (a RemoveContainer) Key() string { return removePrefix + a.ContainerID }

// Policy lets it run to its end.
func (RemoveContainer) Policy() Policy { return Policy{Operation: "remove_container"} }

func (a RemoveContainer) complete(s *State, r ActionResult, now time.Time) {
	s.failRemoval(a.Key(), r, now)
}

func (a RemoveContainer) simulate(h *simulation) {
	h.observed.Runtime.Containers = slices.DeleteFunc(h.observed.Runtime.Containers, func(c runtime.Container) bool { return c.ID == a.ContainerID })
}
