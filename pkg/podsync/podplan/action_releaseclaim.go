package podplan

import "time"

// ReleaseClaim gives back all that the host holds of one kind for a pod that has ended. It is not
// told the names of claims: after a restart of the agent, or without the pod's spec, nobody knows
// them but the host. It is idempotent.
type ReleaseClaim struct{ Kind Kind }

// String is the kind's own text: "unmount volumes".
func (a ReleaseClaim) String() string { return ruleOf(a.Kind).release }

// Key is the kind.
func (a ReleaseClaim) Key() string { return "release/" + string(a.Kind) }

// Policy lets it run to its end.
func (ReleaseClaim) Policy() Policy { return Policy{} }

func (a ReleaseClaim) complete(s *State, r ActionResult, now time.Time) {
	s.failRemoval(a.Key(), r, now)
}

func (a ReleaseClaim) simulate(h *simulation) {
	h.release(a.Kind)
	for _, r := range rules() {
		if r.with == a.Kind {
			h.release(r.kind)
		}
	}
}
