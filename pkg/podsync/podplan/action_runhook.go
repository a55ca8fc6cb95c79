package podplan

import (
	"fmt"
	"time"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
)

// RunHook runs a lifecycle hook of a running container.
type RunHook struct {
	Container, ContainerID string
	Kind                   podspec.HookKind
	// Grace is the longest that a PreStop hook may take.
	Grace time.Duration
}

// maxHook is the longest that a postStart hook may take: the API has no limit for it.
const maxHook = time.Hour

// String is one line.
func (a RunHook) String() string { return fmt.Sprintf("run %s hook of %s", a.Kind, a.Container) }

// Key is one hook of one attempt.
func (a RunHook) Key() string { return "hook/" + string(a.Kind) + "/" + a.ContainerID }

// Policy gives a preStop hook the grace of its pod, however short that becomes, and cancels a
// postStart hook when the pod must end.
func (a RunHook) Policy() Policy {
	if a.Kind == podspec.PreStop {
		return Policy{Operation: "exec_sync", Limit: max(a.Grace, time.Second), Cancel: CancelAtGrace}
	}
	return Policy{Operation: "exec_sync", Limit: maxHook, Cancel: CancelAtEnd}
}

func (a RunHook) complete(s *State, r ActionResult, _ time.Time) {
	h := s.Hooks[a.ContainerID]
	if a.Kind == podspec.PreStop {
		h.PreStopDone = true
	} else {
		h.PostStartDone = true
		if r.Err != nil {
			h.PostStartError = r.Err.Error()
		}
	}
	s.Hooks = s.Hooks.with(a.ContainerID, h)
}

func (RunHook) simulate(*simulation) {} // whatever it does stays within the container
