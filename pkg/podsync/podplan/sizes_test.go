package podplan_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/nodeagent/nodeagent/pkg/podsync/podplan"
)

func requirementsOf(t *testing.T, text string) corev1.ResourceRequirements {
	t.Helper()
	r, err := resources(text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// The text is kept in the records of running containers: when it changes, an upgrade resizes them
// all.
func TestSizesAsText(t *testing.T) {
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
		s := podplan.SizesOf(pod, &pod.Spec.Containers[0])
		if got := s.String(); got != step.want {
			t.Errorf("got %q, want %q", got, step.want)
		}
		if back, ok := podplan.ReadSizes(s.String()); !ok || !back.Equal(s) || back.String() != s.String() {
			t.Errorf("%q is read back as %q, %v", s, back, ok)
		}
	}
	for _, text := range []string{"", "cpu=1", "requests.gpu=1", "x.cpu=1", "requests.cpu", "requests.cpu=one"} {
		if s, ok := podplan.ReadSizes(text); ok {
			t.Errorf("%q is read as %q", text, s)
		}
	}
}

func FuzzReadSizes(f *testing.F) {
	f.Add("requests.cpu=20m limits.memory=64Mi pod.cpu=1")
	f.Add("none")
	f.Fuzz(func(t *testing.T, text string) {
		s, ok := podplan.ReadSizes(text)
		if !ok {
			return
		}
		if back, again := podplan.ReadSizes(s.String()); !again || !back.Equal(s) {
			t.Errorf("%q is read as %q, and that as %q, %v", text, s, back, again)
		}
	})
}

// What is of no size is as it was, what has one is replaced, and nothing of the original is written
// to.
func TestSizesInto(t *testing.T) {
	r := requirementsOf(t, "requests.cpu=1 requests.memory=64Mi limits.cpu=2")
	r.Limits["example.com/x"] = resource.MustParse("1")
	small, _ := podplan.ReadSizes("requests.cpu=500m limits.memory=1Gi")
	got := small.Into(r)
	if len(got.Requests) != 1 || got.Requests.Cpu().String() != "500m" || len(got.Limits) != 2 || got.Limits.Memory().String() != "1Gi" {
		t.Errorf("got %v", got)
	}
	if len(r.Limits) != 2 || r.Requests.Cpu().String() != "1" {
		t.Errorf("the original was written to: %v", r)
	}
	if none, _ := podplan.ReadSizes("none"); none.Into(requirementsOf(t, "limits.cpu=1")).Limits != nil {
		t.Error("a list of nothing is left")
	}
}

// The text of events is kubelet's: people and tools read it.
func TestResizeMessage(t *testing.T) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{
		Name: "c0", Resources: requirementsOf(t, "requests.cpu=100m limits.cpu=200m limits.memory=100"),
	}, {Name: "c1"}}}}
	const want = `Pod resize error: {"containers":[{"name":"c0","resources":{"limits":{"cpu":"200m","memory":"100"},"requests":{"cpu":"100m"}}},` +
		`{"name":"c1","resources":{}}],"generation":2,"error":"no"}`
	if got := podplan.ResizeMessage("Pod resize error", pod, 2, "no"); got != want {
		t.Errorf("got %s", got)
	}
}
