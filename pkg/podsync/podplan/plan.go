package podplan

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// planner makes one Plan.
type planner struct {
	viewer
	view  *PodView
	rules []rule
	plan  Plan
}

// wakeAt asks for another step at a later moment; zero is none.
func (p *planner) wakeAt(at time.Time) {
	if at.After(p.now) {
		p.plan.WakeAt = earlier(p.plan.WakeAt, at)
	}
}

// do plans an action, unless one of its key runs.
func (p *planner) do(a Action) {
	if !p.observed.Running[a.Key()] {
		p.plan.Actions = append(p.plan.Actions, a)
	}
}

// doAfter plans an action for a moment.
func (p *planner) doAfter(at time.Time, a Action) {
	if at.After(p.now) {
		p.wakeAt(at)
		return
	}
	p.do(a)
}

// remove plans a removal, later and later as it fails.
func (p *planner) remove(a Action) {
	p.doAfter(p.state.Removals[a.Key()].until(removeInitial, removeMax), a)
}

// live plans for a pod that should run.
func (p *planner) live() {
	p.removeOldAttempts()
	forSandbox, forContainers := p.prepareClaims()
	p.runningContainers()
	widened := p.resize()
	sandbox := p.sandbox(forSandbox)
	for _, c := range p.startable() {
		p.start(c, forContainers && sandbox && widened)
	}
}

// sandbox plans that there is one sandbox, and says whether containers may start in it. A lost one
// is removed only after its containers.
func (p *planner) sandbox(prepared bool) bool {
	s := p.observed.Runtime.Sandbox
	switch {
	case s != nil && s.Ready:
		return true
	case p.anyAlive() || p.running(startPrefix):
		// runningContainers plans their stops
	case s != nil:
		p.remove(RemoveSandbox{Attempt: s.Attempt})
	case prepared && !p.running(sandboxKey) && !p.running(resizePrefix):
		p.doAfter(p.state.Sandbox.until(sandboxInitial, sandboxMax), StartSandbox{Attempt: p.nextSandbox()})
	}
	return false
}

// nextSandbox is an attempt that no container record names, so that old attempts never seem to be
// in the new sandbox.
func (p *planner) nextSandbox() int {
	attempt, containers := p.state.NextSandbox, p.observed.Runtime.Containers
	for i := 0; i < len(containers); i++ {
		if containers[i].SandboxID == runtime.SandboxID(p.want.UID, attempt) {
			attempt++
			i = -1
		}
	}
	return attempt
}

// hold holds the status back while a container that ended to be replaced has no running successor.
// Whoever watches sees both changes at once, and takes no pod for broken that only got another
// image or other resources. A successor that takes longer than holdStatus, or fails, holds nothing
// back.
func (p *planner) hold() {
	for i := range p.view.Containers {
		c := &p.view.Containers[i]
		ended := c.Latest
		if ended != nil && ended.State == runtime.Created {
			ended = c.Previous // the successor is created, not yet started
		}
		if ended == nil || ended.State != runtime.Exited || !p.state.Stops[ended.ID].Replace {
			continue
		}
		failed := p.state.Starts[c.Spec.Name].Count > 0 || p.state.Images[c.Spec.Name].Failure.Count > 0
		over := p.state.ended(ended.ID, ended.FinishedAt, p.now).Add(holdStatus)
		if failed || !over.After(p.now) {
			continue
		}
		p.plan.Hold = true
		p.wakeAt(over)
	}
}

// runningContainers plans what running containers of a living pod need: their postStart hook, or
// their end.
func (p *planner) runningContainers() {
	for i := range p.view.Containers {
		c := &p.view.Containers[i]
		if c.State != Running {
			continue
		}
		if c.Replaceable() {
			p.image(c, c.Attempt+1) // before it ends: without the image it runs on
		}
		if s := p.state.Stops[c.Latest.ID]; !s.Since.IsZero() {
			p.stop(stop{record: c.Latest, spec: c.Spec, allowed: true, message: s.Message, deadline: s.Since.Add(s.Grace)})
			continue
		}
		if c.HookPending && c.Latest.State == runtime.Running {
			p.do(RunHook{Container: c.Spec.Name, ContainerID: c.Latest.ID, Kind: podspec.PostStart})
		}
	}
	p.removeDuplicates()
}

// removeDuplicates removes running attempts that are not a container's newest; only a lost record
// leads to one.
func (p *planner) removeDuplicates() {
	rt := &p.observed.Runtime
	for i := range rt.Containers {
		c := &rt.Containers[i]
		if c.State == runtime.Running && rt.Latest(c.Name).ID != c.ID {
			p.remove(RemoveContainer{Container: c.Name, ContainerID: c.ID})
		}
	}
}

// removeOldAttempts removes the attempts before the previous one: of each container the newest and
// one dead one stay, for `logs --previous` and the last state.
func (p *planner) removeOldAttempts() {
	rt := &p.observed.Runtime
	for i := range rt.Containers {
		c := &rt.Containers[i]
		previous := rt.Previous(c.Name)
		if previous != nil && c.Attempt < previous.Attempt && c.State != runtime.Running {
			p.remove(RemoveContainer{Container: c.Name, ContainerID: c.ID})
		}
	}
}

// startable lists the containers that may start as soon as sandbox, claims and image are there and
// their back-off is over. Ephemeral containers wait for nothing; app containers for all init
// containers.
func (p *planner) startable() []*ContainerView {
	var inits, apps, out []*ContainerView
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
	first, passed := p.startableInits(inits)
	out = append(out, first...)
	if !passed {
		return out
	}
	for _, c := range apps {
		out = appendStartable(out, c)
	}
	return out
}

// startableInits lists the init containers that may start, and says whether app containers may. Of
// the ones before the furthest that was reached, only sidecars start again, and nothing waits for
// them.
func (p *planner) startableInits(inits []*ContainerView) (out []*ContainerView, passed bool) {
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
		case c.Role == podspec.Sidecar && c.Started, c.Role == podspec.Init && c.State == Succeeded:
		default:
			return appendStartable(out, c), false
		}
	}
	return out, true
}

func appendStartable(out []*ContainerView, c *ContainerView) []*ContainerView {
	if c.State == Pending || c.State == Restarting {
		return append(out, c)
	}
	return out
}

// start plans the next attempt of a container; ready says that sandbox and claims are there.
func (p *planner) start(c *ContainerView, ready bool) {
	if c.Due.After(p.now) {
		p.wakeAt(c.Due)
		return
	}
	if p.observed.Running[startPrefix+c.Spec.Name] {
		return
	}
	if f := p.state.Starts[c.Spec.Name]; f.Attempt == c.Attempt {
		if hold := f.until(startInitial, startMax); hold.After(p.now) {
			p.wakeAt(hold)
			return
		}
	}
	image, ok := p.image(c, c.Attempt)
	if !ok || !ready {
		return
	}
	p.do(StartContainer{Container: c.Spec.Name, Attempt: c.Attempt, ImageID: image, Delay: c.next})
}

// image returns the image of an attempt that starts next, or plans to get it.
func (p *planner) image(c *ContainerView, attempt int) (string, bool) {
	s := p.state.Images[c.Spec.Name]
	if s.of(c.Spec.Image, attempt) && s.ImageID != "" {
		return s.ImageID, true
	}
	ensure := EnsureImage{Container: c.Spec.Name, Ref: c.Spec.Image, Attempt: attempt, Pull: pullPolicy(c.Spec)}
	if s.Ref == c.Spec.Image {
		if shown := s.Failure.At.Add(ErrorShown); s.Failure.Count > 0 {
			p.wakeAt(shown)
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
