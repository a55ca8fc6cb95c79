package podspec_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
)

func TestQOS(t *testing.T) {
	list := func(text string) corev1.ResourceList {
		out := corev1.ResourceList{}
		for pair := range strings.FieldsSeq(text) {
			name, quantity, _ := strings.Cut(pair, "=")
			out[corev1.ResourceName(name)] = resource.MustParse(quantity)
		}
		return out
	}
	type sizes struct{ requests, limits string }
	whole := sizes{limits: "cpu=1 memory=1Gi"}
	for _, c := range []struct {
		init, app, pod sizes
		want           corev1.PodQOSClass
	}{
		{want: corev1.PodQOSBestEffort},
		{app: sizes{requests: "ephemeral-storage=1Gi"}, want: corev1.PodQOSBestEffort},
		{init: sizes{limits: "cpu=0 memory=0"}, app: sizes{requests: "cpu=0"}, want: corev1.PodQOSBestEffort},
		{app: sizes{requests: "cpu=1"}, want: corev1.PodQOSBurstable},
		{app: whole, want: corev1.PodQOSBurstable}, // the init container has none
		{init: whole, app: sizes{limits: "memory=1Gi"}, want: corev1.PodQOSBurstable},
		{init: whole, app: sizes{"cpu=500m memory=1Gi", "cpu=1 memory=1Gi"}, want: corev1.PodQOSBurstable},
		{init: whole, app: sizes{"cpu=0 memory=1Gi", "cpu=1 memory=1Gi"}, want: corev1.PodQOSBurstable},
		{init: whole, app: whole, want: corev1.PodQOSGuaranteed},
		{init: whole, app: sizes{"cpu=1000m memory=1024Mi", "cpu=1 memory=1Gi"}, want: corev1.PodQOSGuaranteed},
		{app: sizes{requests: "cpu=1"}, pod: sizes{"cpu=1 memory=1Gi", "cpu=1000m memory=1024Mi"}, want: corev1.PodQOSGuaranteed},
		{init: whole, app: whole, pod: sizes{requests: "cpu=1"}, want: corev1.PodQOSBurstable},
	} {
		requirements := func(s sizes) corev1.ResourceRequirements {
			return corev1.ResourceRequirements{Requests: list(s.requests), Limits: list(s.limits)}
		}
		pod := &corev1.Pod{}
		pod.Spec.InitContainers = []corev1.Container{{Resources: requirements(c.init)}}
		pod.Spec.Containers = []corev1.Container{{Resources: requirements(c.app)}}
		if c.pod != (sizes{}) {
			r := requirements(c.pod)
			pod.Spec.Resources = &r
		}
		if got := podspec.QOS(pod); got != c.want {
			t.Errorf("%+v: %s, want %s", c, got, c.want)
		}
	}
	reported := &corev1.Pod{Status: corev1.PodStatus{QOSClass: corev1.PodQOSBurstable}}
	if got := podspec.QOS(reported); got != corev1.PodQOSBurstable {
		t.Errorf("the class in the status counts; got %s", got)
	}
}
