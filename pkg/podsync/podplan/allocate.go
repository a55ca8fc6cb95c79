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

// Allocation is what the node has given a pod of what it asks for, where that may change while the
// pod lives.
type Allocation struct {
	// Pod are the sizes of the pod as a whole: Requests and Limits.
	Pod podspec.Resources
	// Containers are those of init and app containers by name.
	Containers map[string]podspec.Resources
}

// Room is what there is for a pod on the node.
type Room struct {
	Allocatable corev1.ResourceList // of the node; nil: not known, everything fits
	Used        corev1.ResourceList // given to the other pods
}

// ResizeState is how far a change of a pod's resources is (KEP-1287):
//
//	asked for ─► given ─► in progress: widen the pod's cgroup ─► containers ─► narrow the pod's cgroup ─► done
//	    └─► pending: Deferred until there is room, Infeasible until something else is asked for
//
// It is one with what containers' records and the reported conditions say, from which a new agent
// learns it.
type ResizeState struct {
	Given   *Allocation // nil: not known yet
	Pending PendingResize
	// Generation of the pod whose resources were given last by a resize, and that of the last
	// resize that is complete.
	Generation, Done int64
	// Widened and Narrowed are the generations for which that was done to the pod's cgroup.
	Widened, Narrowed int64
	// Failure is that of a step of the resize in progress.
	Failure FailureState
}

// PendingResize is why the pod is not given what it asks for; without a Reason nothing pends.
type PendingResize struct {
	Reason, Message string
	Generation      int64 // of the pod that asks
}

// InProgress says that not everything that was given has been carried out.
func (r *ResizeState) InProgress() bool { return r.Generation != r.Done }

// Asks says whether the pod asks for something else than it was given.
func (r *ResizeState) Asks(pod *corev1.Pod) bool {
	return pod != nil && r.Given != nil && !r.Given.fits(pod)
}

func allocationOf(pod *corev1.Pod) *Allocation {
	a := &Allocation{Containers: map[string]podspec.Resources{}}
	if r := pod.Spec.Resources; r != nil {
		a.Pod = podspec.Resizable(*r)
	}
	for _, c := range sized(pod) {
		a.Containers[c.Name] = podspec.Resizable(c.Resources)
	}
	return a
}

// sized are the containers that have resources.
func sized(pod *corev1.Pod) []*corev1.Container {
	out := make([]*corev1.Container, 0, len(pod.Spec.InitContainers)+len(pod.Spec.Containers))
	for role, c := range podspec.Containers(pod) {
		if role != podspec.Ephemeral {
			out = append(out, c)
		}
	}
	return out
}

// fits says that the pod asks for just this.
func (a *Allocation) fits(pod *corev1.Pod) bool {
	asked := allocationOf(pod)
	if !a.Pod.Equal(asked.Pod) {
		return false
	}
	for name, s := range asked.Containers {
		if given, ok := a.Containers[name]; ok && !given.Equal(s) {
			return false
		}
	}
	return true
}

// into is the pod with what it was given.
func (a *Allocation) into(pod *corev1.Pod) *corev1.Pod {
	pod = pod.DeepCopy()
	if pod.Spec.Resources != nil {
		*pod.Spec.Resources = a.Pod.Into(*pod.Spec.Resources)
	}
	for _, c := range sized(pod) {
		if s, ok := a.Containers[c.Name]; ok {
			c.Resources = s.Into(c.Resources)
		}
	}
	return pod
}

// Allocate says what the pod is to have: it returns want with the resources in Pod that the pod was
// given. It gives what is asked for when that fits into room; a nil room decides nothing. It comes
// before Observe. A pod that ends or is defined on this node is given nothing new; the latter is
// replaced when its file changes.
func (m *Memory) Allocate(want Want, host runtime.Pod, room *Room) Want {
	r, pod := &m.Resize, want.Pod
	if pod == nil {
		return want
	}
	if want.Static {
		r.Given = allocationOf(pod)
	} else if r.Given == nil {
		r.recall(want, host)
	}
	if !r.Asks(pod) {
		r.Pending = PendingResize{}
		return want
	}
	ends := pod.DeletionTimestamp != nil || want.Outcome != nil || podspec.Terminal(want.Reported.Phase)
	if room != nil && !ends {
		r.decide(pod, *room)
		if !r.Asks(pod) {
			return want
		}
	}
	want.Pod = r.Given.into(pod)
	return want
}

// decide gives the pod what it asks for, or says why not.
func (r *ResizeState) decide(pod *corev1.Pod, room Room) {
	reason, message := room.refuses(r.Given.into(pod), pod)
	if reason != "" {
		r.Pending = PendingResize{Reason: reason, Message: message, Generation: pod.Generation}
		return
	}
	r.Given, r.Pending, r.Failure = allocationOf(pod), PendingResize{}, FailureState{}
	r.begin(pod.Generation)
}

// begin has everything that was given carried out.
func (r *ResizeState) begin(generation int64) {
	r.Generation = max(1, generation)
	r.Done, r.Widened, r.Narrowed = 0, 0, 0
}

// refuses says why a pod may not have what it asks for, in kubelet's words; "" when it may. What
// does not grow always fits.
func (r Room) refuses(has, asks *corev1.Pod) (reason, message string) {
	if r.Allocatable == nil {
		return "", ""
	}
	had := resource.PodRequests(has, resource.PodResourcesOptions{})
	requests := resource.PodRequests(asks, resource.PodResourcesOptions{})
	for _, name := range podspec.ResizableNames() {
		before, now := podspec.Units(name, had[name]), podspec.Units(name, requests[name])
		capacity, used := podspec.Units(name, r.Allocatable[name]), podspec.Units(name, r.Used[name])
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

// Reserve takes what another pod that waits for room asks for out of it, if it fits: its turn comes
// first.
func (r *Room) Reserve(has, asks *corev1.Pod) {
	rest := Room{Allocatable: r.Allocatable, Used: r.Used.DeepCopy()}
	requests := resource.PodRequests(has, resource.PodResourcesOptions{})
	for name, q := range requests {
		sum := rest.Used[name]
		sum.Sub(q)
		rest.Used[name] = sum
	}
	if reason, _ := rest.refuses(has, asks); reason != "" {
		return
	}
	for name, q := range resource.PodRequests(asks, resource.PodResourcesOptions{}) {
		sum := rest.Used[name]
		sum.Add(q)
		rest.Used[name] = sum
	}
	r.Used = rest.Used
}

// ResizesBefore says whether the resize of a is weighed before that of b when both wait for room:
// the higher priority, then Guaranteed before others, then the one that waits longer.
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

// waitsSince is when the pod was told that it waits; zero when it was not.
func waitsSince(pod *corev1.Pod) time.Time {
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == corev1.PodResizePending {
			return c.LastTransitionTime.Time
		}
	}
	return time.Time{}
}

// recall learns what an earlier life of the agent gave the pod: what its containers were made with
// or last given, as their records say; of those without a record, what the API was told. A resize
// that was in progress goes on.
func (r *ResizeState) recall(want Want, host runtime.Pod) {
	pod := want.Pod
	r.Given = allocationOf(pod)
	for i := range want.Reported.Conditions {
		c := &want.Reported.Conditions[i]
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
		return // what it asks for was given, and is partly carried out
	}
	for _, c := range sized(pod) {
		if s, known := recordedSizes(host.Latest(c.Name)); known {
			r.Given.Containers[c.Name] = podspec.Resources{Requests: s.Requests, Limits: s.Limits}
			continue
		}
		if told := podspec.Status(&want.Reported, c.Name); told != nil && told.Resources != nil {
			r.Given.Containers[c.Name] = podspec.Resizable(*told.Resources)
		}
	}
}

func recordedSizes(c *runtime.Container) (podspec.Resources, bool) {
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
