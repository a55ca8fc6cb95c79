// Package fieldref is PURE: the values of downward API fields (fieldRef, resourceFieldRef), for
// environment variables and for volumes. The field paths are those of EnvVarSource in the
// Kubernetes API.
package fieldref

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
)

// Addresses are those of the pod and its node, primary first. A pod has its own once its sandbox
// runs.
type Addresses struct {
	PodIPs, HostIPs []string
}

// Field is the value of one field path, such as "metadata.name" or "metadata.labels['app']".
func Field(pod *corev1.Pod, path string, a Addresses) (string, error) {
	if name, key, ok := subscript(path); ok {
		switch name {
		case "metadata.annotations":
			return pod.Annotations[key], nil
		case "metadata.labels":
			return pod.Labels[key], nil
		}
		return "", fmt.Errorf("field %q has no keys", name)
	}
	switch path {
	case "metadata.annotations":
		return formatMap(pod.Annotations), nil
	case "metadata.labels":
		return formatMap(pod.Labels), nil
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "spec.nodeName":
		return pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	default:
		return address(path, a)
	}
}

func address(path string, a Addresses) (string, error) {
	switch path {
	case "status.podIP":
		return firstOf(a.PodIPs), nil
	case "status.podIPs":
		return strings.Join(a.PodIPs, ","), nil
	case "status.hostIP":
		return firstOf(a.HostIPs), nil
	case "status.hostIPs":
		return strings.Join(a.HostIPs, ","), nil
	}
	return "", fmt.Errorf("unsupported fieldPath: %v", path)
}

func firstOf(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// subscript splits "metadata.labels['app']" into field and key.
func subscript(path string) (field, key string, ok bool) {
	rest, found := strings.CutSuffix(path, "']")
	if !found {
		return "", "", false
	}
	return strings.Cut(rest, "['")
}

// formatMap writes a line key="value" for each entry, sorted, without a final newline.
func formatMap(m map[string]string) string {
	lines := make([]string, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		lines = append(lines, k+"="+strconv.Quote(m[k]))
	}
	return strings.Join(lines, "\n")
}

// Resource is the value of one resource field such as "limits.cpu", in units of its divisor and
// rounded up. A limit that the container does not set is the node's allocatable. container applies
// when the selector names none.
func Resource(pod *corev1.Pod, container string, s *corev1.ResourceFieldSelector, allocatable corev1.ResourceList) (string, error) {
	name := s.ContainerName
	if name == "" {
		name = container
	}
	c, _ := podspec.Find(pod, name)
	if c == nil {
		return "", fmt.Errorf("container %s not found", name)
	}
	kind, res, ok := strings.Cut(s.Resource, ".")
	if !ok || (kind != "limits" && kind != "requests") {
		return "", fmt.Errorf("unsupported container resource: %v", s.Resource)
	}
	q := quantity(c.Resources, kind, corev1.ResourceName(res), allocatable)
	divisor := s.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	switch {
	case res == string(corev1.ResourceCPU):
		return ceil(q.MilliValue(), divisor.MilliValue()), nil
	case res == string(corev1.ResourceMemory), res == string(corev1.ResourceEphemeralStorage),
		strings.HasPrefix(res, corev1.ResourceHugePagesPrefix):
		return ceil(q.Value(), divisor.Value()), nil
	default:
		return "", fmt.Errorf("unsupported container resource: %v", s.Resource)
	}
}

func quantity(r corev1.ResourceRequirements, kind string, name corev1.ResourceName, allocatable corev1.ResourceList) resource.Quantity {
	if kind == "requests" {
		if q, ok := r.Requests[name]; ok {
			return q
		}
		return r.Limits[name] // a missing request equals the limit
	}
	if q := r.Limits[name]; !q.IsZero() {
		return q
	}
	if strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) {
		return resource.Quantity{}
	}
	return allocatable[name]
}

func ceil(value, divisor int64) string {
	return strconv.FormatInt(int64(math.Ceil(float64(value)/float64(max(divisor, 1)))), 10)
}
