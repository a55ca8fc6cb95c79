package fieldref_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/fieldref"
)

func pod() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: "p", Namespace: "ns", UID: "u",
			Labels: map[string]string{"b": "2", "a": "one"}, Annotations: map[string]string{"x.io/y": "line\n\"q\""},
		},
		Spec: corev1.PodSpec{NodeName: "node", ServiceAccountName: "sa", Containers: []corev1.Container{
			{Name: "set", Resources: corev1.ResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("250m")},
				Limits:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1500m"), corev1.ResourceMemory: resource.MustParse("64Mi")},
			}},
			{Name: "unset"},
		}},
	}
}

func TestField(t *testing.T) {
	addresses := fieldref.Addresses{PodIPs: []string{"10.0.0.1", "fd00::1"}, HostIPs: []string{"192.168.0.1"}}
	for path, want := range map[string]string{
		"metadata.name":                  "p",
		"metadata.namespace":             "ns",
		"metadata.uid":                   "u",
		"metadata.labels":                "a=\"one\"\nb=\"2\"",
		"metadata.labels['b']":           "2",
		"metadata.labels['none']":        "",
		"metadata.annotations":           "x.io/y=\"line\\n\\\"q\\\"\"",
		"metadata.annotations['x.io/y']": "line\n\"q\"",
		"spec.nodeName":                  "node",
		"spec.serviceAccountName":        "sa",
		"status.podIP":                   "10.0.0.1",
		"status.podIPs":                  "10.0.0.1,fd00::1",
		"status.hostIP":                  "192.168.0.1",
		"status.hostIPs":                 "192.168.0.1",
	} {
		if got, err := fieldref.Field(pod(), path, addresses); err != nil || got != want {
			t.Errorf("%s: got %q, %v, want %q", path, got, err, want)
		}
	}
	for _, path := range []string{"", "spec.containers", "metadata.name['a']", "status.phase"} {
		if got, err := fieldref.Field(pod(), path, addresses); err == nil {
			t.Errorf("%s: got %q and no error", path, got)
		}
	}
	if got, err := fieldref.Field(pod(), "status.podIP", fieldref.Addresses{}); got != "" || err != nil {
		t.Errorf("without addresses: %q, %v", got, err)
	}
}

func TestResource(t *testing.T) {
	allocatable := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("3500m"), corev1.ResourceMemory: resource.MustParse("1Gi"),
		corev1.ResourceEphemeralStorage: resource.MustParse("10Gi"),
	}
	for i, c := range []struct{ container, resource, divisor, want string }{
		{"set", "limits.cpu", "", "2"},
		{"set", "limits.cpu", "1m", "1500"},
		{"set", "requests.cpu", "1m", "250"},
		{"set", "limits.memory", "", "67108864"},
		{"set", "limits.memory", "1Mi", "64"},
		{"set", "requests.memory", "1Mi", "64"},
		{"set", "limits.memory", "100M", "1"},
		{"unset", "limits.cpu", "1m", "3500"},
		{"unset", "limits.cpu", "", "4"},
		{"unset", "requests.cpu", "1m", "0"},
		{"unset", "limits.memory", "1Gi", "1"},
		{"unset", "limits.ephemeral-storage", "1Gi", "10"},
		{"unset", "limits.hugepages-2Mi", "", "0"},
	} {
		s := &corev1.ResourceFieldSelector{Resource: c.resource}
		if c.divisor != "" {
			s.Divisor = resource.MustParse(c.divisor)
		}
		if got, err := fieldref.Resource(pod(), c.container, s, allocatable); err != nil || got != c.want {
			t.Errorf("%d: %+v: got %q, %v", i, c, got, err)
		}
	}
	for _, bad := range []corev1.ResourceFieldSelector{{Resource: "cpu"}, {Resource: "limits.gpu"}, {Resource: "limits.cpu", ContainerName: "none"}} {
		if got, err := fieldref.Resource(pod(), "set", &bad, nil); err == nil {
			t.Errorf("%+v: got %q and no error", bad, got)
		}
	}
}
