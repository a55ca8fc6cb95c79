package podplan

import (
	"fmt"
	"time"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// StartSandbox makes the claims that a sandbox lies in (folder, cgroup), pins the namespaces and
// sets up the network.
type StartSandbox struct{ Attempt int }

// String is one line.
func (a StartSandbox) String() string { return fmt.Sprintf("start sandbox attempt %d", a.Attempt) }

// Key is the sandbox, as that of its removal.
func (StartSandbox) Key() string { return sandboxKey }

// Policy cancels it when the pod must end.
func (StartSandbox) Policy() Policy {
	return Policy{Operation: "run_podsandbox", Cancel: CancelAtEnd}
}

func (StartSandbox) complete(s *State, r ActionResult, now time.Time) {
	s.Sandbox = s.Sandbox.after(r.Err, "", now)
}

func (a StartSandbox) simulate(h *simulation) {
	for _, r := range rules() {
		if r.names == nil {
			h.hold(r.kind)
		}
	}
	h.observed.Runtime.Sandbox = &runtime.Sandbox{
		ID: runtime.SandboxID(h.want.UID, a.Attempt), Attempt: a.Attempt, Ready: true, CreatedAt: h.now,
	}
}
