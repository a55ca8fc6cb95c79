package podspec_test

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
)

// allRoles is a pod with a container of each role.
func allRoles() *corev1.Pod {
	always := corev1.ContainerRestartPolicyAlways
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"},
		Spec: corev1.PodSpec{
			InitContainers: []corev1.Container{{Name: "i"}, {Name: "s", RestartPolicy: &always}},
			Containers:     []corev1.Container{{Name: "a"}, {Name: "b"}},
			EphemeralContainers: []corev1.EphemeralContainer{{
				EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "e"}, TargetContainerName: "a",
			}},
		},
	}
}

func TestContainers(t *testing.T) {
	pod := allRoles()
	var all []string
	for role, c := range podspec.Containers(pod) {
		all = append(all, fmt.Sprintf("%s %s %v", c.Name, role, role.Serves()))
		c.Image = "seen"
	}
	if got, want := strings.Join(all, ", "), "i Init false, s Sidecar true, a App true, b App true, e Ephemeral false"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if pod.Spec.InitContainers[0].Image != "seen" || pod.Spec.EphemeralContainers[0].Image != "seen" {
		t.Error("the containers are copies, not the pod's own")
	}
	for range podspec.Containers(pod) {
		break // an iteration may end early
	}
	if c, role := podspec.Find(pod, "s"); c != &pod.Spec.InitContainers[1] || role != podspec.Sidecar {
		t.Errorf("found %v as %s", c, role)
	}
	if c, role := podspec.Find(pod, "none"); c != nil || role != "" {
		t.Errorf("found %v as %q", c, role)
	}
	if a, e := podspec.Target(pod, "a"), podspec.Target(pod, "e"); a != "" || e != "a" {
		t.Errorf("targets %q and %q", a, e)
	}
}

func TestContainerReference(t *testing.T) {
	for name, want := range map[string]string{
		"i": "spec.initContainers{i}", "s": "spec.initContainers{s}", "a": "spec.containers{a}", "e": "spec.ephemeralContainers{e}",
		"gone": "spec.containers{gone}",
	} {
		if got := podspec.ContainerReference(allRoles(), name); got.FieldPath != want || got.Name != "p" || got.Kind != "Pod" {
			t.Errorf("%s: got %+v, want %s", name, got, want)
		}
	}
}

func TestStatuses(t *testing.T) {
	s := &corev1.PodStatus{
		InitContainerStatuses:      []corev1.ContainerStatus{{Name: "i"}},
		ContainerStatuses:          []corev1.ContainerStatus{{Name: "a"}},
		EphemeralContainerStatuses: []corev1.ContainerStatus{{Name: "e"}},
	}
	var names []string
	for c := range podspec.Statuses(s) {
		names = append(names, c.Name)
	}
	if got := strings.Join(names, " "); got != "i a e" {
		t.Errorf("got %s", got)
	}
	if podspec.Status(s, "e") != &s.EphemeralContainerStatuses[0] || podspec.Status(s, "none") != nil {
		t.Error("Status does not find the status by its name")
	}
}
