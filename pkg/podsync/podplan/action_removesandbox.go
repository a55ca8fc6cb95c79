package podplan

import (
	"fmt"
	"time"
)

// RemoveSandbox tears down network and namespaces of one attempt.
type RemoveSandbox struct{ Attempt int }

// String is one line.
func (a RemoveSandbox) String() string { return fmt.Sprintf("remove sandbox attempt %d", a.Attempt) }

// Key is the sandbox, as that of its start.
func (RemoveSandbox) Key() string { return sandboxKey }

// Policy lets it run to its end.
func (RemoveSandbox) Policy() Policy { return Policy{Operation: "remove_podsandbox"} }

func (a RemoveSandbox) complete(s *State, r ActionResult, now time.Time) {
	s.failRemoval(a.Key(), r, now)
	if r.Err == nil {
		s.NextSandbox = max(s.NextSandbox, a.Attempt+1)
	}
}

func (RemoveSandbox) simulate(h *simulation) { h.observed.Runtime.Sandbox = nil }
