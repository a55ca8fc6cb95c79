package podplan

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// planner makes one Plan.
type planner struct {
	want   Want
	have   Have
	memory *Memory
	view   View
	now    time.Time
	plan   Plan
}

// Next says what may be done now for a pod, when to look again, and whether it is through.
// Memory.Observe comes before it.
//
//	            volumes ┐
//	LIVING      sandbox ┼─► init containers, one after the other ─► app containers ─► ended for good? ─┐
//	            images  ┘     sidecars: on to the next once started     restarted by policy, back-off   │
//	               ▲                                                             │                      │
//	               └── remove sandbox ◄── every container stopped ◄── sandbox lost                      │
//	                                                                                                    │
//	   deleted, unknown to every source, refused, evicted, past its deadline, Succeeded or Failed ──────┤
//	                                                                                                    ▼
//	ENDING      preStop ─► stop signal ─► grace ─► SIGKILL; sidecars last, in reverse ─► Stopped
//	                                                                                        │
//	STOPPED     remove sandbox, unmount volumes, remove cgroup; records and logs stay ◄─────┤
//	                                                                                        │ deleted or unknown
//	REMOVED     … and remove containers ─► clean up ─► Done ◄───────────────────────────────┘
//
// Nothing leads back from ENDING: no container of such a pod is ever started. A step that is under
// way (Have.Busy) is not named again.
func Next(want Want, have Have, now time.Time) Plan {
	p := planner{want: want, have: have, memory: memoryOf(have), view: Look(want, have, now), now: now}
	p.wake(p.view.wake)
	if p.view.Ends {
		p.end()
	} else {
		p.live()
		p.hold()
	}
	return p.plan
}

// wake asks for another look at a later moment; zero is none.
func (p *planner) wake(at time.Time) {
	if at.After(p.now) {
		p.plan.WakeAt = earlier(p.plan.WakeAt, at)
	}
}

// do names an action, unless it is under way.
func (p *planner) do(a Action) {
	if !p.have.Busy[a.Key()] {
		p.plan.Actions = append(p.plan.Actions, a)
	}
}

// doAfter names an action that may be held back until a moment.
func (p *planner) doAfter(hold time.Time, a Action) {
	if hold.After(p.now) {
		p.wake(hold)
		return
	}
	p.do(a)
}

// remove names a removal, later and later as it fails.
func (p *planner) remove(a Action) {
	p.doAfter(p.memory.Removal[a.Key()].until(removeInitial, removeMax), a)
}

// busy says whether any action under way has a key that begins so.
func (p *planner) busy(prefix string) bool {
	for key := range p.have.Busy {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	return false
}

// live plans for a pod that is to run.
func (p *planner) live() {
	p.trim()
	mounted := p.volumes()
	p.running()
	roomy := p.resize()
	sandbox := p.sandbox()
	for _, c := range p.frontier() {
		p.start(c, mounted && sandbox && roomy)
	}
}

// volumes names every volume that is not mounted, and says whether all are.
func (p *planner) volumes() bool {
	all := true
	for i := range p.view.Pod.Spec.Volumes {
		name := p.view.Pod.Spec.Volumes[i].Name
		s := p.memory.Volumes[name]
		if s.Mounted {
			continue
		}
		all = false
		p.doAfter(s.Failure.until(volumeInitial, volumeMax), MountVolume{Volume: name})
	}
	return all
}

// sandbox sees to it that there is one sandbox, and says whether it can be used. A lost one goes
// only after its containers.
func (p *planner) sandbox() bool {
	s := p.have.Runtime.Sandbox
	switch {
	case s != nil && s.Ready:
		return true
	case p.anyAlive() || p.busy(startPrefix):
		// the stops are planned by running
	case s != nil:
		p.remove(RemoveSandbox{Attempt: s.Attempt})
	case !p.busy(StartSandbox{}.Key()) && !p.busy(resizePrefix):
		p.doAfter(p.memory.Sandbox.until(sandboxInitial, sandboxMax), StartSandbox{Attempt: p.nextSandbox()})
	}
	return false
}

// nextSandbox is an attempt whose id no container record names, so that old attempts never seem to
// be in the new sandbox.
func (p *planner) nextSandbox() int {
	attempt := p.memory.NextSandbox
	for i := 0; i < len(p.have.Runtime.Containers); i++ {
		if p.have.Runtime.Containers[i].SandboxID == runtime.SandboxID(p.want.UID, attempt) {
			attempt++
			i = -1
		}
	}
	return attempt
}

func (p *planner) anyAlive() bool {
	l := looker{memory: p.memory}
	for i := range p.have.Runtime.Containers {
		if l.alive(&p.have.Runtime.Containers[i]) {
			return true
		}
	}
	return false
}

// hold holds the status back while a container that ended for its successor is without one: the two
// are told as one change, so that no pod is taken for broken, by whoever watches, that was only
// given another image or size. A successor that takes longer than holdStatus, or fails, holds
// nothing back.
func (p *planner) hold() {
	for i := range p.view.Containers {
		c := &p.view.Containers[i]
		ended := c.Latest
		if ended != nil && ended.State == runtime.Created {
			ended = c.Previous // the successor is there, and not started yet
		}
		if ended == nil || ended.State != runtime.Exited || !p.memory.Stops[ended.ID].Replace {
			continue
		}
		failed := p.memory.Starts[c.Spec.Name].Count > 0 || p.memory.Images[c.Spec.Name].Failure.Count > 0
		over := p.memory.ended(ended.ID, ended.FinishedAt, p.now).Add(holdStatus)
		if failed || !over.After(p.now) {
			continue
		}
		p.plan.Hold = true
		p.wake(over)
	}
}

// running plans what running containers of a living pod need: their postStart hook, or their end.
func (p *planner) running() {
	for i := range p.view.Containers {
		c := &p.view.Containers[i]
		if c.Standing != Running {
			continue
		}
		if c.Replaceable() {
			p.image(c, c.Attempt+1) // before it ends: it stays if there is none
		}
		if s := p.memory.Stops[c.Latest.ID]; !s.Since.IsZero() {
			p.stop(stopping{record: c.Latest, spec: c.Spec, turn: true, message: s.Message, deadline: s.Since.Add(s.Grace)})
			continue
		}
		if c.HookPending && c.Latest.State == runtime.Running {
			p.do(RunHook{Container: c.Spec.Name, ContainerID: c.Latest.ID, Kind: podspec.PostStart})
		}
	}
	p.strays()
}

// strays ends what runs of a container that is not its newest attempt; nothing but a lost record
// leads to that.
func (p *planner) strays() {
	for i := range p.have.Runtime.Containers {
		c := &p.have.Runtime.Containers[i]
		if c.State == runtime.Running && p.have.Runtime.Latest(c.Name).ID != c.ID {
			p.remove(RemoveContainer{Container: c.Name, ContainerID: c.ID})
		}
	}
}

// frontier lists the containers that may be started as soon as sandbox, volumes and image are there
// and their back-off is over. Ephemeral containers wait for nothing; app containers for all init
// containers.
func (p *planner) frontier() []*Container {
	var inits, apps, out []*Container
	for i := range p.view.Containers {
		c := &p.view.Containers[i]
		switch c.Role {
		case podspec.Init, podspec.Sidecar:
			inits = append(inits, c)
		case podspec.App:
			apps = append(apps, c)
		case podspec.Ephemeral:
			out = appendStartable(out, c)
		}
	}
	first, passed := p.initFrontier(inits)
	out = append(out, first...)
	if !passed {
		return out
	}
	for _, c := range apps {
		out = appendStartable(out, c)
	}
	return out
}

// initFrontier lists the init containers to be started, and says whether the app containers' turn
// has come. Those before the furthest that was reached are behind: of them only sidecars are
// started again, and hold nothing up.
func (p *planner) initFrontier(inits []*Container) (out []*Container, passed bool) {
	reached := len(inits)
	if !p.view.Initialized {
		for reached = len(inits) - 1; reached > 0; reached-- {
			if c := inits[reached]; c.Latest != nil && c.Current {
				break
			}
		}
	}
	for i, c := range inits {
		switch {
		case i < reached:
			if c.Role == podspec.Sidecar {
				out = appendStartable(out, c)
			}
		case c.Role == podspec.Sidecar && c.Started, c.Role == podspec.Init && c.Standing == Succeeded:
		default:
			return appendStartable(out, c), false
		}
	}
	return out, true
}

func appendStartable(out []*Container, c *Container) []*Container {
	if c.Standing == Pending || c.Standing == Restarting {
		return append(out, c)
	}
	return out
}

// start plans the next attempt of a container; ready says that sandbox and volumes are there.
func (p *planner) start(c *Container, ready bool) {
	if c.Due.After(p.now) {
		p.wake(c.Due)
		return
	}
	if p.have.Busy[StartContainer{Container: c.Spec.Name}.Key()] {
		return
	}
	if f := p.memory.Starts[c.Spec.Name]; f.Attempt == c.Attempt {
		if hold := f.until(startInitial, startMax); hold.After(p.now) {
			p.wake(hold)
			return
		}
	}
	image, ok := p.image(c, c.Attempt)
	if !ok || !ready {
		return
	}
	p.do(StartContainer{Container: c.Spec.Name, Attempt: c.Attempt, ImageID: image, Delay: c.next})
}

// image returns the image of an attempt that is to be started, or plans to get it.
func (p *planner) image(c *Container, attempt int) (string, bool) {
	s := p.memory.Images[c.Spec.Name]
	if s.of(c.Spec.Image, attempt) && s.ImageID != "" {
		return s.ImageID, true
	}
	ensure := EnsureImage{Container: c.Spec.Name, Ref: c.Spec.Image, Attempt: attempt, Policy: pullPolicy(c.Spec)}
	if s.Ref == c.Spec.Image {
		if shown := s.Failure.At.Add(ErrorShown); s.Failure.Count > 0 {
			p.wake(shown)
		}
		p.doAfter(s.ImageRetry(), ensure)
	} else {
		p.do(ensure)
	}
	return "", false
}

// pullPolicy is the container's, else IfNotPresent: the API server writes the right default into
// every pod of its own.
func pullPolicy(c *corev1.Container) corev1.PullPolicy {
	if c.ImagePullPolicy == "" {
		return corev1.PullIfNotPresent
	}
	return c.ImagePullPolicy
}

// trim names the attempts before the previous one: of each container the newest and one dead one
// are kept, for `logs --previous` and the last state.
func (p *planner) trim() {
	for i := range p.have.Runtime.Containers {
		c := &p.have.Runtime.Containers[i]
		previous := p.have.Runtime.Previous(c.Name)
		if previous != nil && c.Attempt < previous.Attempt && c.State != runtime.Running {
			p.remove(RemoveContainer{Container: c.Name, ContainerID: c.ID})
		}
	}
}
