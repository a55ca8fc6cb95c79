package podplan_test

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/nodeagent/nodeagent/pkg/podsync/podplan"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/runtime/cgroup/qos"
)

// limits are those of a pod's cgroup or of a container: thousandths of a CPU and bytes, 0 for none.
type limits struct{ cpu, memory int64 }

func limitsOf(pod *corev1.Pod) limits {
	if pod == nil {
		return limits{}
	}
	t := qos.Total(pod)
	return limits{t.CPULimit, t.Memory}
}

// over says whether l is more than its parent may use.
func (l limits) over(parent limits) bool {
	return parent.cpu > 0 && l.cpu > parent.cpu || parent.memory > 0 && l.memory > parent.memory
}

// limit keeps the limits of the pod's cgroup.
func (h *host) limit(a podplan.Action) {
	wanted := limitsOf(h.madeFrom[a.Key()])
	switch a := a.(type) {
	case podplan.StartSandbox:
		h.cgroup = &wanted
	case podplan.ReleaseClaim:
		if a.Kind == podplan.Cgroup || a.Kind == podplan.Folder {
			h.cgroup = nil
		}
	case podplan.ResizePod:
		if h.cgroup == nil {
			h.cgroup = &limits{}
		}
		if !a.Widen {
			*h.cgroup = wanted
			return
		}
		if h.cgroup.cpu > 0 {
			h.cgroup.cpu = max(h.cgroup.cpu, wanted.cpu)
		}
		if h.cgroup.memory > 0 {
			h.cgroup.memory = max(h.cgroup.memory, wanted.memory)
		}
	}
}

// checkLimits notes a container that was limited to more than its pod: cgroup v1 refuses that for
// CPU.
func (h *host) checkLimits(a podplan.Action) {
	for i := range h.observed.Runtime.Containers {
		c := &h.observed.Runtime.Containers[i]
		s, known := podspec.ParseResources(c.SpecResources)
		if c.State != runtime.Running || !known || h.cgroup == nil {
			continue
		}
		own := limits{s.Limits.Cpu().MilliValue(), s.Limits.Memory().Value()}
		h.rule(own.over(*h.cgroup), "%s limits %s to %+v in a pod limited to %+v", a, c.Name, own, *h.cgroup)
	}
}

// resources reads "requests.cpu=1 limits.memory=64Mi" into requirements.
func resources(text string) (corev1.ResourceRequirements, error) {
	s, ok := podspec.ParseResources(text)
	if !ok {
		return corev1.ResourceRequirements{}, fmt.Errorf("no resources: %q", text)
	}
	return s.Into(corev1.ResourceRequirements{}), nil
}

// ask has containers ask for other resources.
func (h *host) ask(asked map[string]corev1.ResourceRequirements) {
	h.edit(func(p *corev1.Pod) {
		for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
			for i := range list {
				if r, ok := asked[list[i].Name]; ok {
					list[i].Resources = r
				}
			}
		}
	})
}

// setHeadroom reads "cpu=1 memory=1Gi" and, behind a "used", what the other pods have.
func (h *host) setHeadroom(text string) error {
	h.headroom = podplan.Headroom{Allocatable: corev1.ResourceList{}, Used: corev1.ResourceList{}}
	into := h.headroom.Allocatable
	for field := range strings.FieldsSeq(text) {
		if field == "used" {
			into = h.headroom.Used
			continue
		}
		name, value, _ := strings.Cut(field, "=")
		q, err := resource.ParseQuantity(value)
		if err != nil {
			return err
		}
		into[corev1.ResourceName(name)] = q
	}
	return nil
}

// requirements are random ones, always with limits: those may not be taken away.
func (l *life) requirements() corev1.ResourceRequirements {
	cpu := resource.NewMilliQuantity(int64(10+l.rand.IntN(5)*10), resource.DecimalSI)
	memory := resource.NewQuantity(int64(16+l.rand.IntN(5)*16)<<20, resource.BinarySI)
	list := corev1.ResourceList{corev1.ResourceCPU: *cpu, corev1.ResourceMemory: *memory}
	return corev1.ResourceRequirements{Requests: list, Limits: list.DeepCopy()}
}

// resizeSome has containers ask for other resources, or the room for them change.
func (l *life) resizeSome() {
	if l.chance(30) {
		l.headroom = podplan.Headroom{}
		if l.chance(70) {
			l.rule(l.setHeadroom(fmt.Sprintf("cpu=%dm memory=1Gi used cpu=%dm", l.rand.IntN(300), l.rand.IntN(200))) != nil, "no room can be set")
		}
		fmt.Fprintf(l.log, "> room %v\n", l.headroom)
		return
	}
	asked := map[string]corev1.ResourceRequirements{}
	for _, c := range specs(l.want.Pod) {
		if l.chance(60) {
			asked[c.Name] = l.requirements()
		}
	}
	fmt.Fprintf(l.log, "> resize %v\n", asked)
	l.ask(asked)
}

// checkResources notes what a pod at rest lacks of what it requests, when everything fits.
func (l *life) checkResources() {
	if l.plan.Stopped {
		return
	}
	for _, spec := range specs(l.want.Pod) {
		c := l.observed.Runtime.Latest(spec.Name)
		if c == nil || c.State != runtime.Running {
			continue
		}
		wanted := podspec.ResourcesOf(l.want.Pod, &spec)
		l.rule(c.SpecResources != wanted.String(), "%s has %s, not %s", c.Name, c.SpecResources, wanted)
	}
	l.rule(l.cgroup == nil || *l.cgroup != limitsOf(l.want.Pod), "the pod is limited to %+v, not %+v", l.cgroup, limitsOf(l.want.Pod))
	for _, c := range l.status.Conditions {
		l.rule(c.Type == corev1.PodResizePending || c.Type == corev1.PodResizeInProgress, "condition %s: %s", c.Type, c.Message)
	}
}
