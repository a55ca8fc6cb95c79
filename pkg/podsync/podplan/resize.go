package podplan

import (
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// resizing fills in which sizes a container was given last, and whether it runs with others than it
// is to have.
func (c *Container) resizing(pod *corev1.Pod) {
	if c.Role == podspec.Ephemeral || c.Latest == nil || c.Latest.SpecResources == "" {
		return
	}
	wanted := podspec.ResourcesOf(pod, c.Spec)
	if c.Latest.SpecResources == wanted.String() {
		c.Applied = &wanted
		return
	}
	applied, known := podspec.ParseResources(c.Latest.SpecResources)
	if !known {
		return
	}
	c.Applied = &applied
	c.Resize = c.Latest.State == runtime.Running && !applied.Equal(wanted)
}

// resizeRestarts says that the container's resize policy asks for its restart.
func (c *Container) resizeRestarts(pod *corev1.Pod) bool {
	if !c.Resize || c.Role == podspec.Init {
		return false
	}
	wanted := podspec.ResourcesOf(pod, c.Spec)
	for _, p := range c.Spec.ResizePolicy {
		if p.RestartPolicy == corev1.RestartContainer && c.Applied.Differs(wanted, p.ResourceName) {
			return true
		}
	}
	return false
}

// observeResize notes when a resize is complete: every running container has what it is to have,
// and so has the pod's cgroup. A container may also come with what was given before, when it was
// being started meanwhile.
func (m *Memory) observeResize(v View, have Have) {
	r, left := &m.Resize, false
	for i := range v.Containers {
		left = left || v.Containers[i].Resize
	}
	if left && !r.InProgress() {
		r.begin(v.Pod.Generation)
	}
	for key := range have.Busy {
		left = left || strings.HasPrefix(key, startPrefix) || strings.HasPrefix(key, resizePrefix)
	}
	if r.InProgress() && r.Narrowed == r.Generation && !left {
		r.Done, r.Failure = r.Generation, FailureState{}
	}
}

// noteResize takes the outcome of a step of a resize in. What failed is shown until the resize is
// complete.
func (m *Memory) noteResize(a Action, r ActionResult, f FailureState) {
	if r.Err != nil {
		m.Resize.Failure, m.Resize.Failure.Reason = f, corev1.PodReasonError
		return
	}
	if step, ok := a.(ResizePod); ok {
		if step.Widen {
			m.Resize.Widened = step.Generation
		} else {
			m.Resize.Narrowed = step.Generation
		}
	}
}

// resize takes a living pod one step towards what it was given:
//
//	widen the pod's cgroup ─► containers that shrink ─► those that grow ─► narrow the pod's cgroup
//
// so that no container is ever limited to more than its pod. It says whether the pod's cgroup has
// room for containers to be started.
func (p *planner) resize() bool {
	r := p.memory.Resize
	if !r.InProgress() {
		return true
	}
	hold := r.Failure.until(resizeInitial, resizeMax)
	if p.busy(StartSandbox{}.Key()) {
		return false // it makes the cgroup by what was given when it began
	}
	if r.Widened != r.Generation {
		p.doAfter(hold, ResizePod{Generation: r.Generation, Widen: true})
		return false
	}
	var shrink, grow []Action
	left := false
	for i := range p.view.Containers {
		c := &p.view.Containers[i]
		if !c.Resize {
			continue
		}
		left = true
		if stop := p.memory.Stops[c.Latest.ID]; !stop.Since.IsZero() {
			continue // it ends, and is started with what it is to have
		}
		wanted := podspec.ResourcesOf(p.view.Pod, c.Spec)
		update := UpdateResources{Container: c.Spec.Name, ContainerID: c.Latest.ID, To: wanted.String()}
		if c.Applied.Grows(wanted) {
			grow = append(grow, update)
		} else {
			shrink = append(shrink, update)
		}
	}
	if len(shrink) == 0 {
		shrink = grow
	}
	for _, a := range shrink {
		p.doAfter(hold, a)
	}
	if !left && r.Narrowed != r.Generation && !p.busy(startPrefix) && !p.busy(resizePrefix) {
		p.doAfter(hold, ResizePod{Generation: r.Generation})
	}
	return true
}
