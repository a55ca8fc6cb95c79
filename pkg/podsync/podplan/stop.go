package podplan

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// stopping is one container that is to end.
type stopping struct {
	record   *runtime.Container
	spec     *corev1.Container // nil when it is not known
	message  string
	deadline time.Time
	// turn is false while something must end before it; at the deadline it ends all the same.
	turn bool
}

// stop takes a container one step towards its end:
//
//	preStop ─► turn ─► stop signal ─► SIGKILL at the deadline, but never within 2 s of the stop signal
func (p *planner) stop(s stopping) {
	m := p.memory.Stops[s.record.ID]
	signal := StopContainer{Container: s.record.Name, ContainerID: s.record.ID, Message: s.message}
	failed := m.Failure.until(signalInitial, signalMax)
	if m.TermSent.IsZero() {
		if p.preStop(s) || !s.turn && p.now.Before(s.deadline) {
			p.wake(s.deadline)
			return
		}
		p.doAfter(failed, signal)
		return
	}
	kill := s.deadline
	if window := m.TermSent.Add(minWindow); window.After(kill) {
		kill = window
	}
	if !m.KillSent.IsZero() {
		kill = m.KillSent.Add(killAgain)
	}
	if failed.After(kill) {
		kill = failed
	}
	signal.Kill = true
	p.doAfter(kill, signal)
}

// preStop runs the hook, and says whether it holds the stop signal back.
func (p *planner) preStop(s stopping) bool {
	if s.spec == nil || s.spec.Lifecycle == nil || s.spec.Lifecycle.PreStop == nil || s.record.State != runtime.Running {
		return false
	}
	if p.memory.Hooks[s.record.ID].PreStopDone || !p.now.Before(s.deadline) {
		return false
	}
	p.do(RunHook{Container: s.record.Name, ContainerID: s.record.ID, Kind: podspec.PreStop, Grace: s.deadline.Sub(p.now)})
	return true
}

// end plans for a pod that is to run no longer.
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
	since, grace := p.memory.TerminatingSince, p.memory.Grace
	if since.IsZero() { // not observed yet
		since, grace = p.now, minGrace
	}
	blocked := false // something that sidecars wait for runs
	var sidecars []stopping
	for i := range p.have.Runtime.Containers {
		record := &p.have.Runtime.Containers[i]
		if l := (looker{memory: p.memory}); !l.alive(record) {
			continue
		}
		c := p.find(record)
		s := stopping{record: record, turn: true, message: "Stopping container " + record.Name, deadline: since.Add(grace)}
		if m := p.memory.Stops[record.ID]; !m.Since.IsZero() { // it was to end before the pod was
			s.deadline = earlier(s.deadline, m.Since.Add(m.Grace))
		}
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
func (p *planner) stopSidecars(sidecars []stopping, blocked bool) {
	for i := len(p.view.Containers) - 1; i >= 0; i-- {
		for _, s := range sidecars {
			if s.record.Name != p.view.Containers[i].Spec.Name {
				continue
			}
			s.turn = !blocked
			p.stop(s)
			blocked = true
		}
	}
}

// find returns the container of the pod spec that a record is of.
func (p *planner) find(record *runtime.Container) *Container {
	for i := range p.view.Containers {
		if c := &p.view.Containers[i]; c.Spec.Name == record.Name {
			return c
		}
	}
	return nil
}

// tearDown removes what a pod holds that has stopped: all of it when the pod itself is removed,
// else everything but the records, folder and logs of its containers.
func (p *planner) tearDown() {
	rt, left := &p.have.Runtime, p.have.Residue
	if rt.Sandbox != nil {
		p.remove(RemoveSandbox{Attempt: rt.Sandbox.Attempt})
	}
	if left.Volumes && !p.busy("volume/") {
		p.remove(UnmountVolumes{})
	}
	if !p.view.Removed {
		p.trim()
		if left.Cgroup && rt.Sandbox == nil && !p.busy("") {
			p.remove(RemoveCgroup{})
		}
		return
	}
	for i := range rt.Containers {
		p.remove(RemoveContainer{Container: rt.Containers[i].Name, ContainerID: rt.Containers[i].ID})
	}
	if !rt.Empty() || left.Volumes || p.busy("") {
		return
	}
	if left.Dir || left.Cgroup {
		p.remove(Cleanup{})
		return
	}
	p.plan.Done = true
}
