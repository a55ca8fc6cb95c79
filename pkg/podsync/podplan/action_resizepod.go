package podplan

import (
	"fmt"
	"time"
)

// ResizePod changes the limits of the pod's cgroup to what the pod was allocated: with Widen only
// those that grow.
type ResizePod struct {
	Generation int64 // of the resize that it is a step of
	Widen      bool
}

// String is one line.
func (a ResizePod) String() string {
	if a.Widen {
		return fmt.Sprintf("widen the pod's cgroup for generation %d", a.Generation)
	}
	return fmt.Sprintf("narrow the pod's cgroup for generation %d", a.Generation)
}

// Key is the pod's cgroup, for either step.
func (ResizePod) Key() string { return resizePrefix + "pod" }

// Policy lets it run to its end.
func (ResizePod) Policy() Policy { return Policy{} }

func (a ResizePod) complete(s *State, r ActionResult, now time.Time) {
	switch {
	case s.Resize.fail(r, now):
	case a.Widen:
		s.Resize.Widened = a.Generation
	default:
		s.Resize.Narrowed = a.Generation
	}
}

func (ResizePod) simulate(*simulation) {} // nothing that is observed shows a cgroup's limits
