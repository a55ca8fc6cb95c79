package podplan

import (
	"slices"
	"time"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// Simulate returns what would be observed after the action has succeeded, and the action's result.
// `nodeagent render pod` and the tests play whole lives of pods with it. Want.Pod is the pod as it
// was when the action began.
func Simulate(w Want, o Observed, a Action, now time.Time) (Observed, ActionResult) {
	o.Runtime.Containers, o.Held = slices.Clone(o.Runtime.Containers), slices.Clone(o.Held)
	h := simulation{want: &w, observed: o, now: now}
	a.simulate(&h)
	return h.observed, h.result
}

// simulation is a host in memory on which one action is done. The action may write to the lists of
// containers and of what is held.
type simulation struct {
	want     *Want
	observed Observed
	now      time.Time
	result   ActionResult
}

// container finds a record by id; nil when there is none.
func (h *simulation) container(id string) *runtime.Container {
	for i := range h.observed.Runtime.Containers {
		if c := &h.observed.Runtime.Containers[i]; c.ID == id {
			return c
		}
	}
	return nil
}

func (h *simulation) hold(kinds ...Kind) {
	for _, kind := range kinds {
		if !slices.Contains(h.observed.Held, kind) {
			h.observed.Held = append(h.observed.Held, kind)
		}
	}
}

func (h *simulation) release(kind Kind) {
	h.observed.Held = slices.DeleteFunc(h.observed.Held, func(k Kind) bool { return k == kind })
}
