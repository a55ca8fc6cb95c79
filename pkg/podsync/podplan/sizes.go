package podplan

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Sizes are the requests and limits of a container that may change while it runs: CPU and memory
// (KEP-1287). The lists hold nothing else.
type Sizes struct {
	Requests, Limits corev1.ResourceList
	// Pod are limits of the pod as a whole that stand in for those that the container has not
	// itself (KEP-2837).
	Pod corev1.ResourceList
}

// resizable are the resources that may change.
func resizable() []corev1.ResourceName {
	return []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory}
}

// SizesOf are those that a container of the pod is to have.
func SizesOf(pod *corev1.Pod, c *corev1.Container) Sizes {
	s := Sizes{Requests: sizesIn(c.Resources.Requests), Limits: sizesIn(c.Resources.Limits)}
	if pod.Spec.Resources == nil {
		return s
	}
	for name, q := range sizesIn(pod.Spec.Resources.Limits) {
		if _, own := s.Limits[name]; !own {
			put(&s.Pod, name, q)
		}
	}
	return s
}

// sizesIn are the resizable resources of a list.
func sizesIn(from corev1.ResourceList) corev1.ResourceList {
	var list corev1.ResourceList
	for _, name := range resizable() {
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

// String is one line, as container records keep it: "requests.cpu=20m limits.memory=64Mi"; "none"
// when nothing is asked for.
func (s Sizes) String() string {
	var fields []string
	for _, part := range s.parts() {
		for _, name := range resizable() {
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

// ReadSizes reads what String wrote; it says false of what it cannot read, as of a record that has
// none.
func ReadSizes(text string) (Sizes, bool) {
	var s Sizes
	if text == "none" {
		return s, true
	}
	parts := s.parts()
	for field := range strings.FieldsSeq(text) {
		key, value, _ := strings.Cut(field, "=")
		partName, name, _ := strings.Cut(key, ".")
		q, err := resource.ParseQuantity(value)
		if err != nil || !slices.Contains(resizable(), corev1.ResourceName(name)) {
			return Sizes{}, false
		}
		i := slices.IndexFunc(parts, func(p sizesPart) bool { return p.name == partName })
		if i < 0 {
			return Sizes{}, false
		}
		put(parts[i].list, corev1.ResourceName(name), q)
	}
	return s, text != ""
}

type sizesPart struct {
	name string
	list *corev1.ResourceList
}

func (s *Sizes) parts() []sizesPart {
	return []sizesPart{{"requests", &s.Requests}, {"limits", &s.Limits}, {"pod", &s.Pod}}
}

// Equal compares by value: 1 CPU is 1000m, and what is not given is 0.
func (s Sizes) Equal(o Sizes) bool {
	for _, name := range resizable() {
		if s.differs(o, name) {
			return false
		}
	}
	return true
}

// differs says whether one resource does.
func (s Sizes) differs(o Sizes, name corev1.ResourceName) bool {
	theirs := o.parts()
	for i, part := range s.parts() {
		a, b := (*part.list)[name], (*theirs[i].list)[name]
		if a.Cmp(b) != 0 {
			return true
		}
	}
	return false
}

// grows says whether a limit of o is higher than it is here, or a request is where there is no
// limit.
func (s Sizes) grows(o Sizes) bool {
	for _, name := range resizable() {
		a, b := s.bound(name), o.bound(name)
		if b.Cmp(a) > 0 {
			return true
		}
	}
	return false
}

// bound is a resource's limit, else its request.
func (s Sizes) bound(name corev1.ResourceName) resource.Quantity {
	for _, list := range []corev1.ResourceList{s.Limits, s.Pod, s.Requests} {
		if q, ok := list[name]; ok {
			return q
		}
	}
	return resource.Quantity{}
}

// into gives a list of requests or limits these sizes, and leaves the other resources in it as they
// are.
func into(list, sizes corev1.ResourceList) corev1.ResourceList {
	out := list.DeepCopy()
	for _, name := range resizable() {
		delete(out, name)
	}
	for name, q := range sizes {
		put(&out, name, q)
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// Into are requirements with these sizes; what does not change while a container runs is as it was.
func (s Sizes) Into(r corev1.ResourceRequirements) corev1.ResourceRequirements {
	r.Requests, r.Limits = into(r.Requests, s.Requests), into(r.Limits, s.Limits)
	return r
}
