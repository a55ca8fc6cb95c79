package podspec_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
)

func requirementsOf(t *testing.T, text string) corev1.ResourceRequirements {
	t.Helper()
	r, ok := podspec.ParseResources(text)
	if !ok {
		t.Fatalf("no resources: %q", text)
	}
	return r.Into(corev1.ResourceRequirements{})
}

// The text is kept in the records of running containers: when it changes, an upgrade resizes them
// all.
func TestResourcesAsText(t *testing.T) {
	c := corev1.Container{Name: "app", Resources: requirementsOf(t, "requests.cpu=1000m requests.memory=64Mi limits.memory=0.5Gi")}
	c.Resources.Requests["example.com/x"] = resource.MustParse("1")
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{c}}}
	for _, step := range []struct {
		change func()
		want   string
	}{
		{func() {}, "requests.cpu=1 requests.memory=64Mi limits.memory=512Mi"},
		{func() {
			r := requirementsOf(t, "requests.cpu=1 limits.cpu=2 limits.memory=1Gi")
			pod.Spec.Resources = &r
		}, "requests.cpu=1 requests.memory=64Mi limits.memory=512Mi pod.cpu=2"},
		{func() { pod.Spec.Resources, pod.Spec.Containers[0].Resources = nil, corev1.ResourceRequirements{} }, "none"},
	} {
		step.change()
		s := podspec.ResourcesOf(pod, &pod.Spec.Containers[0])
		if got := s.String(); got != step.want {
			t.Errorf("got %q, want %q", got, step.want)
		}
		if back, ok := podspec.ParseResources(s.String()); !ok || !back.Equal(s) || back.String() != s.String() {
			t.Errorf("%q is read back as %q, %v", s, back, ok)
		}
	}
	for _, text := range []string{"", "cpu=1", "requests.gpu=1", "x.cpu=1", "requests.cpu", "requests.cpu=one"} {
		if s, ok := podspec.ParseResources(text); ok {
			t.Errorf("%q is read as %q", text, s)
		}
	}
}

func FuzzParseResources(f *testing.F) {
	f.Add("requests.cpu=20m limits.memory=64Mi pod.cpu=1")
	f.Add("none")
	f.Fuzz(func(t *testing.T, text string) {
		s, ok := podspec.ParseResources(text)
		if !ok {
			return
		}
		if back, again := podspec.ParseResources(s.String()); !again || !back.Equal(s) {
			t.Errorf("%q is read as %q, and that as %q, %v", text, s, back, again)
		}
	})
}

// Into replaces the resizable resources, keeps the others, and does not write to the original.
func TestResourcesInto(t *testing.T) {
	r := requirementsOf(t, "requests.cpu=1 requests.memory=64Mi limits.cpu=2")
	r.Limits["example.com/x"] = resource.MustParse("1")
	small, _ := podspec.ParseResources("requests.cpu=500m limits.memory=1Gi")
	got := small.Into(r)
	if len(got.Requests) != 1 || got.Requests.Cpu().String() != "500m" || len(got.Limits) != 2 || got.Limits.Memory().String() != "1Gi" {
		t.Errorf("got %v", got)
	}
	if len(r.Limits) != 2 || r.Requests.Cpu().String() != "1" {
		t.Errorf("the original was written to: %v", r)
	}
	if none, _ := podspec.ParseResources("none"); none.Into(requirementsOf(t, "limits.cpu=1")).Limits != nil {
		t.Error("a list of nothing is left")
	}
}
