package podplan_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

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
