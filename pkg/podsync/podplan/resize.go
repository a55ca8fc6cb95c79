package podplan

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// setResize fills in which resources the newest attempt has, and whether it runs with others than
// it was allocated.
func (c *ContainerView) setResize(pod *corev1.Pod) {
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
func (c *ContainerView) resizeRestarts(pod *corev1.Pod) bool {
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

// observeResize completes a resize when every running container has what it was allocated, and so
// has the pod's cgroup. It begins one for a container that comes with what was allocated before,
// because it was being started meanwhile.
func (s *State) observeResize(v *viewer, view *PodView) {
	r, open := &s.Resize, false
	for i := range view.Containers {
		open = open || view.Containers[i].Resize
	}
	if open && !r.InProgress() {
		r.begin(view.Pod.Generation)
	}
	for key := range v.observed.Running {
		open = open || strings.HasPrefix(key, startPrefix) || strings.HasPrefix(key, resizePrefix)
	}
	if r.InProgress() && r.Narrowed == r.Generation && !open {
		r.Done, r.Failure = r.Generation, FailureState{}
	}
}

// fail counts a step of a resize that failed, and says whether it did. The status shows the failure
// until the resize is complete.
func (r *ResizeState) fail(result ActionResult, now time.Time) bool {
	if result.Err != nil {
		r.Failure = r.Failure.after(result.Err, "", now)
		r.Failure.Reason = corev1.PodReasonError
	}
	return result.Err != nil
}

// resize takes a living pod one step towards what it was allocated:
//
//	widen the pod's cgroup ─► containers that shrink ─► those that grow ─► narrow the pod's cgroup
//
// so that no container is ever limited to more than its pod. It says whether the pod's cgroup is
// wide enough for containers to start.
func (p *planner) resize() bool {
	r := &p.state.Resize
	if !r.InProgress() {
		return true
	}
	hold := r.Failure.until(resizeInitial, resizeMax)
	if p.running(sandboxKey) {
		return false // it makes the cgroup by what was allocated when it began
	}
	if r.Widened != r.Generation {
		p.doAfter(hold, ResizePod{Generation: r.Generation, Widen: true})
		return false
	}
	var shrink, grow []Action
	open := false
	for i := range p.view.Containers {
		c := &p.view.Containers[i]
		if !c.Resize {
			continue
		}
		open = true
		if stop := p.state.Stops[c.Latest.ID]; !stop.Since.IsZero() {
			continue // it ends, and starts with what it was allocated
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
	if !open && r.Narrowed != r.Generation && !p.running(startPrefix) && !p.running(resizePrefix) {
		p.doAfter(hold, ResizePod{Generation: r.Generation})
	}
	return true
}
