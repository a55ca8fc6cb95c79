package podplan

import (
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// Allocation is what the node has allocated to a pod of what it requests, where that may change
// while the pod lives. It is never written to.
type Allocation struct {
	// Pod are the resources of the pod as a whole: Requests and Limits.
	Pod podspec.Resources
	// Containers are those of init and app containers by name.
	Containers map[string]podspec.Resources
}

// Headroom is what the node has for a pod.
type Headroom struct {
	Allocatable corev1.ResourceList // of the node; nil: not known, everything fits
	Used        corev1.ResourceList // allocated to the other pods
}

// ResizeState is how far a change of a pod's resources is (KEP-1287):
//
//	requested ─► allocated ─► in progress: widen the pod's cgroup ─► containers ─► narrow the pod's cgroup ─► done
//	    └─► pending: Deferred until there is headroom, Infeasible until the pod requests something else
//
// Containers' records and the reported conditions say the same, so that a new agent learns it from
// them.
type ResizeState struct {
	Allocated *Allocation // nil: not known yet
	Pending   PendingResize
	// Generation of the pod whose resources a resize allocated last, and that of the last resize
	// that is complete.
	Generation, Done int64
	// Widened and Narrowed are the generations for which that was done to the pod's cgroup.
	Widened, Narrowed int64
	// Failure is that of a step of the resize in progress.
	Failure FailureState
}

// PendingResize is why the pod is not allocated what it requests; without a Reason nothing is
// pending.
type PendingResize struct {
	Reason, Message string
	Generation      int64 // of the pod that requests it
}

// InProgress says that not everything that was allocated is applied yet.
func (r *ResizeState) InProgress() bool { return r.Generation != r.Done }

// Requested says whether the pod requests other resources than it was allocated.
func (r *ResizeState) Requested(pod *corev1.Pod) bool {
	return pod != nil && r.Allocated != nil && !r.Allocated.is(pod)
}

func allocationOf(pod *corev1.Pod) *Allocation {
	a := &Allocation{Containers: map[string]podspec.Resources{}}
	if r := pod.Spec.Resources; r != nil {
		a.Pod = podspec.Resizable(*r)
	}
	for role, c := range podspec.Containers(pod) {
		if role != podspec.Ephemeral { // they have no resources
			a.Containers[c.Name] = podspec.Resizable(c.Resources)
		}
	}
	return a
}

// is says that the pod requests just this.
func (a *Allocation) is(pod *corev1.Pod) bool {
	var own corev1.ResourceRequirements
	if r := pod.Spec.Resources; r != nil {
		own = *r
	}
	if !same(a.Pod, &own) {
		return false
	}
	for role, c := range podspec.Containers(pod) {
		allocated, known := a.Containers[c.Name]
		if role != podspec.Ephemeral && known && !same(allocated, &c.Resources) {
			return false
		}
	}
	return true
}

// same compares allocated resources with requested ones: 1 CPU is 1000m, and a missing resource is
// 0.
func same(a podspec.Resources, r *corev1.ResourceRequirements) bool {
	for _, name := range podspec.ResizableNames() {
		for _, pair := range [][2]corev1.ResourceList{{a.Requests, r.Requests}, {a.Limits, r.Limits}} {
			allocated, requested := pair[0][name], pair[1][name]
			if allocated.Cmp(requested) != 0 {
				return false
			}
		}
	}
	return true
}

// into is the pod with what it was allocated.
func (a *Allocation) into(pod *corev1.Pod) *corev1.Pod {
	pod = pod.DeepCopy()
	if pod.Spec.Resources != nil {
		*pod.Spec.Resources = a.Pod.Into(*pod.Spec.Resources)
	}
	for role, c := range podspec.Containers(pod) {
		if r, ok := a.Containers[c.Name]; ok && role != podspec.Ephemeral {
			c.Resources = r.Into(c.Resources)
		}
	}
	return pod
}

// allocate returns the wanted pod with the resources that it was allocated. It allocates what the
// pod requests when that fits into the headroom. A pod that ends or is defined on this node is
// allocated nothing new; the latter is replaced when its file changes.
func (s *State) allocate(w *Want, o *Observed) *corev1.Pod {
	r, pod := &s.Resize, w.Pod
	if pod == nil {
		return nil
	}
	switch {
	case r.Allocated == nil:
		*r = RecallResize(*w, o.Runtime)
	case w.Static && !r.Allocated.is(pod):
		r.Allocated = allocationOf(pod)
	}
	if !r.Requested(pod) {
		r.Pending = PendingResize{}
		return pod
	}
	ends := pod.DeletionTimestamp != nil || w.Termination != nil || podspec.Terminal(w.Reported.Phase)
	if o.Headroom != nil && !ends {
		r.decide(pod, *o.Headroom)
		if !r.Requested(pod) {
			return pod
		}
	}
	return r.Allocated.into(pod)
}

// decide allocates what the pod requests, or says why not.
func (r *ResizeState) decide(pod *corev1.Pod, h Headroom) {
	reason, message := h.refuses(r.Allocated.into(pod), pod)
	if reason != "" {
		r.Pending = PendingResize{Reason: reason, Message: message, Generation: pod.Generation}
		return
	}
	r.Allocated, r.Pending, r.Failure = allocationOf(pod), PendingResize{}, FailureState{}
	r.begin(pod.Generation)
}

// begin starts to apply what was allocated.
func (r *ResizeState) begin(generation int64) {
	r.Generation = max(1, generation)
	r.Done, r.Widened, r.Narrowed = 0, 0, 0
}

// refuses says why a pod may not have what it requests, in kubelet's words; "" when it may. What
// does not grow always fits.
func (h Headroom) refuses(has, requests *corev1.Pod) (reason, message string) {
	if h.Allocatable == nil {
		return "", ""
	}
	had := resource.PodRequests(has, resource.PodResourcesOptions{})
	wanted := resource.PodRequests(requests, resource.PodResourcesOptions{})
	for _, name := range podspec.ResizableNames() {
		before, now := podspec.Units(name, had[name]), podspec.Units(name, wanted[name])
		capacity, used := podspec.Units(name, h.Allocatable[name]), podspec.Units(name, h.Used[name])
		switch {
		case now <= before:
		case now > capacity:
			return corev1.PodReasonInfeasible, fmt.Sprintf("Node didn't have enough capacity: %s, requested: %d, capacity: %d", name, now, capacity)
		case now > capacity-used && reason == "":
			reason = corev1.PodReasonDeferred
			message = fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", name, now, used, capacity)
		}
	}
	return reason, message
}

// Reserve takes what another waiting pod requests out of the headroom, if it fits: that pod comes
// first.
func (h *Headroom) Reserve(has, requests *corev1.Pod) {
	rest := Headroom{Allocatable: h.Allocatable, Used: h.Used.DeepCopy()}
	for name, q := range resource.PodRequests(has, resource.PodResourcesOptions{}) {
		sum := rest.Used[name]
		sum.Sub(q)
		rest.Used[name] = sum
	}
	if reason, _ := rest.refuses(has, requests); reason != "" {
		return
	}
	for name, q := range resource.PodRequests(requests, resource.PodResourcesOptions{}) {
		sum := rest.Used[name]
		sum.Add(q)
		rest.Used[name] = sum
	}
	h.Used = rest.Used
}

// ResizesBefore says whether the resize of a is decided before that of b when both wait for
// headroom: the higher priority first, then Guaranteed pods, then the one that waits longer.
func ResizesBefore(a, b *corev1.Pod) bool {
	if x, y := priority(a), priority(b); x != y {
		return x > y
	}
	if x, y := podspec.QOS(a) == corev1.PodQOSGuaranteed, podspec.QOS(b) == corev1.PodQOSGuaranteed; x != y {
		return x
	}
	x, y := waitsSince(a), waitsSince(b)
	return !x.IsZero() && (y.IsZero() || x.Before(y))
}

func priority(pod *corev1.Pod) int32 {
	if pod.Spec.Priority == nil {
		return 0
	}
	return *pod.Spec.Priority
}

// waitsSince is since when the pod's status says that its resize is pending; zero when it does not.
func waitsSince(pod *corev1.Pod) time.Time {
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == corev1.PodResizePending {
			return c.LastTransitionTime.Time
		}
	}
	return time.Time{}
}

// RecallResize is what an earlier life of the agent allocated to the wanted pod, and how far it was
// with that: what the records of its containers say, and for those without a record what the API
// status reported. A resize that was in progress goes on. It is the ResizeState of a first step.
func RecallResize(w Want, host runtime.Pod) ResizeState {
	pod := w.Pod
	r := ResizeState{Allocated: allocationOf(pod)}
	if w.Static {
		return r
	}
	for i := range w.Reported.Conditions {
		c := &w.Reported.Conditions[i]
		switch c.Type {
		case corev1.PodResizePending:
			r.Pending = PendingResize{Reason: c.Reason, Message: c.Message, Generation: c.ObservedGeneration}
		case corev1.PodResizeInProgress:
			r.begin(c.ObservedGeneration)
			if c.Reason != "" {
				r.Failure = FailureState{Reason: c.Reason, Message: c.Message, Count: 1}
			}
		}
	}
	if r.InProgress() && r.Generation == pod.Generation {
		return r // what it requests was allocated, and is partly applied
	}
	for name := range r.Allocated.Containers {
		if had, known := recorded(host.Latest(name)); known {
			r.Allocated.Containers[name] = podspec.Resources{Requests: had.Requests, Limits: had.Limits}
		} else if reported := podspec.Status(&w.Reported, name); reported != nil && reported.Resources != nil {
			r.Allocated.Containers[name] = podspec.Resizable(*reported.Resources)
		}
	}
	return r
}

func recorded(c *runtime.Container) (podspec.Resources, bool) {
	if c == nil {
		return podspec.Resources{}, false
	}
	return podspec.ParseResources(c.SpecResources)
}

// ResizeMessage is the text of an event about a resize, as kubelet writes it: the prefix, and the
// resources as JSON.
func ResizeMessage(prefix string, pod *corev1.Pod, generation int64, problem string) string {
	type container struct {
		Name      string                      `json:"name"`
		Resources corev1.ResourceRequirements `json:"resources"`
	}
	var summary struct {
		InitContainers []container `json:"initContainers,omitempty"`
		Containers     []container `json:"containers,omitempty"`
		Generation     int64       `json:"generation"`
		Error          string      `json:"error,omitempty"`
	}
	summary.Generation, summary.Error = generation, problem
	for _, c := range pod.Spec.InitContainers {
		summary.InitContainers = append(summary.InitContainers, container{c.Name, c.Resources})
	}
	for _, c := range pod.Spec.Containers {
		summary.Containers = append(summary.Containers, container{c.Name, c.Resources})
	}
	data, err := json.Marshal(summary)
	if err != nil {
		return prefix
	}
	return prefix + ": " + string(data)
}
