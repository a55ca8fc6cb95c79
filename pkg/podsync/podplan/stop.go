package podplan

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// stop is one container that must end.
type stop struct {
	record   *runtime.Container
	spec     *corev1.Container // nil when it is not known
	message  string
	deadline time.Time
	// allowed is false while something must end before it; at the deadline it ends all the same.
	allowed bool
}

// stop takes a container one step towards its end:
//
//	preStop ─► allowed ─► stop signal ─► SIGKILL at the deadline, but never within 2 s of the stop signal
func (p *planner) stop(s stop) {
	state := p.state.Stops[s.record.ID]
	signal := StopContainer{Container: s.record.Name, ContainerID: s.record.ID, Message: s.message}
	failed := state.Failure.until(signalInitial, signalMax)
	if state.TermSent.IsZero() {
		if p.preStop(s) || !s.allowed && p.now.Before(s.deadline) {
			p.wakeAt(s.deadline)
			return
		}
		p.doAfter(failed, signal)
		return
	}
	kill := s.deadline
	if window := state.TermSent.Add(minWindow); window.After(kill) {
		kill = window
	}
	if !state.KillSent.IsZero() {
		kill = state.KillSent.Add(killAgain)
	}
	if failed.After(kill) {
		kill = failed
	}
	signal.Kill = true
	p.doAfter(kill, signal)
}

// preStop plans the hook, and says whether it holds the stop signal back.
func (p *planner) preStop(s stop) bool {
	if s.spec == nil || s.spec.Lifecycle == nil || s.spec.Lifecycle.PreStop == nil || s.record.State != runtime.Running {
		return false
	}
	if p.state.Hooks[s.record.ID].PreStopDone || !p.now.Before(s.deadline) {
		return false
	}
	p.do(RunHook{Container: s.record.Name, ContainerID: s.record.ID, Kind: podspec.PreStop, Grace: s.deadline.Sub(p.now)})
	return true
}

// end plans for a pod that must not run any longer.
func (p *planner) end() {
	if !p.view.Stopped {
		p.stopAll()
		return
	}
	p.plan.Stopped = true
	p.tearDown()
}

// stopAll stops every container: sidecars after the others, and the last of them first.
func (p *planner) stopAll() {
	deadline := p.state.TerminatingSince.Add(p.state.Grace)
	blocked := false // something runs that sidecars wait for
	var sidecars []stop
	for i := range p.observed.Runtime.Containers {
		record := &p.observed.Runtime.Containers[i]
		if !p.alive(record) {
			continue
		}
		s := stop{record: record, allowed: true, message: "Stopping container " + record.Name, deadline: deadline}
		if m := p.state.Stops[record.ID]; !m.Since.IsZero() { // it had to end before the pod had
			s.deadline = earlier(s.deadline, m.Since.Add(m.Grace))
		}
		c := p.find(record.Name)
		if c != nil {
			s.spec = c.Spec
		}
		if c != nil && c.Role == podspec.Sidecar {
			sidecars = append(sidecars, s)
			continue
		}
		blocked = blocked || c == nil || c.Role != podspec.Ephemeral
		p.stop(s)
	}
	p.stopSidecars(sidecars, blocked)
}

// stopSidecars goes through them from the last of the spec to the first.
func (p *planner) stopSidecars(sidecars []stop, blocked bool) {
	for i := len(p.view.Containers) - 1; i >= 0; i-- {
		for _, s := range sidecars {
			if s.record.Name != p.view.Containers[i].Spec.Name {
				continue
			}
			s.allowed = !blocked
			p.stop(s)
			blocked = true
		}
	}
}

// find returns a container of the view by name; nil when the pod's spec has none.
func (p *planner) find(name string) *ContainerView {
	for i := range p.view.Containers {
		if c := &p.view.Containers[i]; c.Spec.Name == name {
			return c
		}
	}
	return nil
}

// tearDown removes what the host holds of a pod that has stopped: everything when the pod is
// deleted, else all but the records, folder and logs of its containers.
func (p *planner) tearDown() {
	rt := &p.observed.Runtime
	if rt.Sandbox != nil {
		p.remove(RemoveSandbox{Attempt: rt.Sandbox.Attempt})
	}
	p.releaseClaims()
	if !p.view.Removed {
		p.removeOldAttempts()
		return
	}
	for i := range rt.Containers {
		p.remove(RemoveContainer{Container: rt.Containers[i].Name, ContainerID: rt.Containers[i].ID})
	}
	p.plan.Done = rt.Empty() && len(p.observed.Held) == 0 && !p.running("")
}
