package podspec

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Resources are the requests and limits of a container that may change while it runs: CPU and
// memory (KEP-1287). The lists hold nothing else.
type Resources struct {
	Requests, Limits corev1.ResourceList
	// Pod are limits of the pod as a whole that apply where the container has none itself
	// (KEP-2837).
	Pod corev1.ResourceList
}

// ResizableNames are the resources that may change while a container runs.
func ResizableNames() []corev1.ResourceName {
	return []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory}
}

// ResourcesOf are the resources that the pod's spec gives a container.
func ResourcesOf(pod *corev1.Pod, c *corev1.Container) Resources {
	s := Resizable(c.Resources)
	if pod.Spec.Resources == nil {
		return s
	}
	for name, q := range resizable(pod.Spec.Resources.Limits) {
		if _, own := s.Limits[name]; !own {
			put(&s.Pod, name, q)
		}
	}
	return s
}

// Resizable are the requests and limits that may change while a container runs.
func Resizable(r corev1.ResourceRequirements) Resources {
	return Resources{Requests: resizable(r.Requests), Limits: resizable(r.Limits)}
}

// resizable are the resizable resources of a list.
func resizable(from corev1.ResourceList) corev1.ResourceList {
	var list corev1.ResourceList
	for _, name := range ResizableNames() {
		if q, ok := from[name]; ok {
			put(&list, name, q)
		}
	}
	return list
}

func put(list *corev1.ResourceList, name corev1.ResourceName, q resource.Quantity) {
	if *list == nil {
		*list = corev1.ResourceList{}
	}
	(*list)[name] = q
}

// Units is a quantity as kubelet's messages write it: thousandths of CPU, whole units of all else.
func Units(name corev1.ResourceName, q resource.Quantity) int64 {
	if name == corev1.ResourceCPU {
		return q.MilliValue()
	}
	return q.Value()
}

// String is one line: "requests.cpu=20m limits.memory=64Mi"; "none" when there are none. Container
// records keep this text: another format resizes every container of every node that is upgraded.
func (s Resources) String() string {
	var fields []string
	for _, part := range s.parts() {
		for _, name := range ResizableNames() {
			if q, ok := (*part.list)[name]; ok {
				fields = append(fields, fmt.Sprintf("%s.%s=%s", part.name, name, q.String()))
			}
		}
	}
	if len(fields) == 0 {
		return "none"
	}
	return strings.Join(fields, " ")
}

// ParseResources reads what String wrote; false for any other text, among it that of a record
// without resources.
func ParseResources(text string) (Resources, bool) {
	var s Resources
	if text == "none" {
		return s, true
	}
	parts := s.parts()
	for field := range strings.FieldsSeq(text) {
		key, value, _ := strings.Cut(field, "=")
		partName, name, _ := strings.Cut(key, ".")
		q, err := resource.ParseQuantity(value)
		if err != nil || !slices.Contains(ResizableNames(), corev1.ResourceName(name)) {
			return Resources{}, false
		}
		i := slices.IndexFunc(parts, func(p part) bool { return p.name == partName })
		if i < 0 {
			return Resources{}, false
		}
		put(parts[i].list, corev1.ResourceName(name), q)
	}
	return s, text != ""
}

type part struct {
	name string
	list *corev1.ResourceList
}

func (s *Resources) parts() []part {
	return []part{{"requests", &s.Requests}, {"limits", &s.Limits}, {"pod", &s.Pod}}
}

// Equal compares by value: 1 CPU is 1000m, and a missing resource is 0.
func (s Resources) Equal(o Resources) bool {
	for _, name := range ResizableNames() {
		if s.Differs(o, name) {
			return false
		}
	}
	return true
}

// Differs reports whether s and o differ in one resource.
func (s Resources) Differs(o Resources, name corev1.ResourceName) bool {
	theirs := o.parts()
	for i, part := range s.parts() {
		a, b := (*part.list)[name], (*theirs[i].list)[name]
		if a.Cmp(b) != 0 {
			return true
		}
	}
	return false
}

// Grows reports whether o bounds any resource higher than s does: by its limit, else its request.
func (s Resources) Grows(o Resources) bool {
	for _, name := range ResizableNames() {
		a, b := s.bound(name), o.bound(name)
		if b.Cmp(a) > 0 {
			return true
		}
	}
	return false
}

// bound is a resource's limit, else its request.
func (s Resources) bound(name corev1.ResourceName) resource.Quantity {
	for _, list := range []corev1.ResourceList{s.Limits, s.Pod, s.Requests} {
		if q, ok := list[name]; ok {
			return q
		}
	}
	return resource.Quantity{}
}

// into replaces the resizable resources of a list of requests or limits, and keeps the others.
func into(list, resizable corev1.ResourceList) corev1.ResourceList {
	out := list.DeepCopy()
	for _, name := range ResizableNames() {
		delete(out, name)
	}
	for name, q := range resizable {
		put(&out, name, q)
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// Into returns r with these requests and limits in place of its own; it keeps those that cannot
// change while a container runs.
func (s Resources) Into(r corev1.ResourceRequirements) corev1.ResourceRequirements {
	r.Requests, r.Limits = into(r.Requests, s.Requests), into(r.Limits, s.Limits)
	return r
}
