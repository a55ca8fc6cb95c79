package podplan

import "time"

// PrepareClaim makes one claim of the pod ready on the host. It is idempotent, and runs again after
// a restart of the agent.
type PrepareClaim struct{ Claim }

// String is the kind's own text: "mount volume data".
func (a PrepareClaim) String() string { return ruleOf(a.Kind).prepare + a.Name }

// Policy cancels it when the pod must end.
func (PrepareClaim) Policy() Policy { return Policy{Cancel: CancelAtEnd} }

func (a PrepareClaim) complete(s *State, r ActionResult, now time.Time) {
	c := s.Claims[a.Key()]
	c.Prepared = c.Prepared || r.Err == nil
	c.Failure = c.Failure.after(r.Err, "", now)
	s.Claims = s.Claims.with(a.Key(), c)
}

func (a PrepareClaim) simulate(h *simulation) { h.hold(a.Kind, Folder) }
