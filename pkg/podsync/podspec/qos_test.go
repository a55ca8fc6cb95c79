package podspec_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
)

func list(cpu, memory string) corev1.ResourceList {
	l := corev1.ResourceList{}
	if cpu != "" {
		l[corev1.ResourceCPU] = resource.MustParse(cpu)
	}
	if memory != "" {
		l[corev1.ResourceMemory] = resource.MustParse(memory)
	}
	return l
}

func container(name string, requests, limits corev1.ResourceList) corev1.Container {
	return corev1.Container{Name: name, Resources: corev1.ResourceRequirements{Requests: requests, Limits: limits}}
}

func podOf(c ...corev1.Container) *corev1.Pod {
	return &corev1.Pod{Spec: corev1.PodSpec{Containers: c}}
}

func TestQOS(t *testing.T) {
	for name, c := range map[string]struct {
		pod  *corev1.Pod
		want corev1.PodQOSClass
	}{
		"nothing":             {podOf(container("a", nil, nil)), corev1.PodQOSBestEffort},
		"only ephemeral":      {podOf(container("a", corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse("1Gi")}, nil)), corev1.PodQOSBestEffort},
		"limits alone":        {podOf(container("a", nil, list("1", "1Gi"))), corev1.PodQOSGuaranteed},
		"equal by value":      {podOf(container("a", list("1000m", "1024Mi"), list("1", "1Gi"))), corev1.PodQOSGuaranteed},
		"one without limits":  {podOf(container("a", nil, list("1", "1Gi")), container("b", nil, nil)), corev1.PodQOSBurstable},
		"only memory":         {podOf(container("a", nil, list("", "1Gi"))), corev1.PodQOSBurstable},
		"request below limit": {podOf(container("a", list("1", "1Gi"), list("2", "1Gi"))), corev1.PodQOSBurstable},
		"request of zero":     {podOf(container("a", list("0", "1Gi"), list("1", "1Gi"))), corev1.PodQOSBurstable},
		"pod level": {&corev1.Pod{Spec: corev1.PodSpec{
			Containers: []corev1.Container{container("a", nil, nil)},
			Resources:  &corev1.ResourceRequirements{Limits: list("1", "1Gi")},
		}}, corev1.PodQOSGuaranteed},
		"reported wins": {&corev1.Pod{Status: corev1.PodStatus{QOSClass: corev1.PodQOSBurstable}}, corev1.PodQOSBurstable},
	} {
		if got := podspec.QOS(c.pod); got != c.want {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
	}
}

func TestQOSOfRoles(t *testing.T) {
	list := func(text string) corev1.ResourceList {
		out := corev1.ResourceList{}
		for pair := range strings.FieldsSeq(text) {
			name, quantity, _ := strings.Cut(pair, "=")
			out[corev1.ResourceName(name)] = resource.MustParse(quantity)
		}
		return out
	}
	for _, c := range []struct {
		init, app, pod [2]string // requests, limits
		want           corev1.PodQOSClass
	}{
		{want: corev1.PodQOSBestEffort},
		{app: [2]string{"ephemeral-storage=1Gi", ""}, want: corev1.PodQOSBestEffort},
		{app: [2]string{"cpu=1", ""}, want: corev1.PodQOSBurstable},
		// the init container has none
		{app: [2]string{"", "cpu=1 memory=1Gi"}, want: corev1.PodQOSBurstable},
		{init: [2]string{"", "cpu=1 memory=1Gi"}, app: [2]string{"", "cpu=1 memory=1Gi"}, want: corev1.PodQOSGuaranteed},
		{init: [2]string{"", "cpu=1 memory=1Gi"}, app: [2]string{"cpu=500m memory=1Gi", "cpu=1 memory=1Gi"}, want: corev1.PodQOSBurstable},
		{init: [2]string{"", "cpu=0 memory=0"}, app: [2]string{"cpu=0", ""}, want: corev1.PodQOSBestEffort},
		{app: [2]string{"cpu=1", ""}, pod: [2]string{"cpu=1 memory=1Gi", "cpu=1000m memory=1024Mi"}, want: corev1.PodQOSGuaranteed},
	} {
		requirements := func(r [2]string) corev1.ResourceRequirements {
			return corev1.ResourceRequirements{Requests: list(r[0]), Limits: list(r[1])}
		}
		pod := &corev1.Pod{}
		pod.Spec.InitContainers = []corev1.Container{{Resources: requirements(c.init)}}
		pod.Spec.Containers = []corev1.Container{{Resources: requirements(c.app)}}
		if c.pod != [2]string{} {
			r := requirements(c.pod)
			pod.Spec.Resources = &r
		}
		if got := podspec.QOS(pod); got != c.want {
			t.Errorf("%+v: %s, want %s", c, got, c.want)
		}
	}
}
