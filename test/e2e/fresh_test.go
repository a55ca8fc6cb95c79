package e2e_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/nodeagent/nodeagent/test/bed"
)

// TestFreshObjects starts pods right after creating their objects, which the API server's own
// caches learn of a moment later than the agent, and pods whose objects are created after them.
func TestFreshObjects(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	p, _ := newPlace(ctx, t, bed.NodeAgent{})
	const count = 25
	var took []time.Duration
	for i := range count {
		name := fmt.Sprintf("fresh-%d", i)
		took = append(took, p.startFresh(ctx, t, name, 0))
		p.kubectl(ctx, t, "delete", "pod", name, "--grace-period=1", "--wait=false")
	}
	slices.Sort(took)
	t.Logf("created to Ready, %d pods one after the other: p50 %s, p99 %s", count, took[count/2], took[count-1])
	p.fewEvents(ctx, t, "FailedMount", "Failed", "FailedToRetrieveImagePullSecret")

	// The back-offs of a volume and of a container's configuration have grown by then to 8 s and
	// 10 s. On a busy machine a start may take as long; not three times in a row.
	const late = 18 * time.Second
	for try := 1; ; try++ {
		after := p.startFresh(ctx, t, fmt.Sprintf("late-%d", try), late) - late
		t.Logf("Ready %s after its ConfigMap and Secret had appeared", after)
		if after <= 3*time.Second {
			return
		}
		if try == 3 {
			t.Fatalf("a pod was Ready %s after its ConfigMap and Secret had appeared", after)
		}
	}
}

// startFresh creates a pod with a ConfigMap as a volume and a Secret in its environment, and
// returns the time until it is Ready. It creates the two objects just before the pod, or that long
// after it.
func (p place) startFresh(ctx context.Context, t *testing.T, name string, late time.Duration) time.Duration {
	t.Helper()
	core, meta := p.client.CoreV1(), metav1.ObjectMeta{Name: name, Namespace: "default"}
	objects := func() {
		if _, err := core.ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"a": "b"}}, metav1.CreateOptions{}); err != nil {
			t.Error(err)
		}
		if _, err := core.Secrets("default").Create(ctx, &corev1.Secret{ObjectMeta: meta, StringData: map[string]string{"a": "b"}}, metav1.CreateOptions{}); err != nil {
			t.Error(err)
		}
	}
	local := corev1.LocalObjectReference{Name: name}
	pod := &corev1.Pod{ObjectMeta: meta, Spec: corev1.PodSpec{
		NodeName: p.Name,
		Volumes:  []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: local}}}},
		Containers: []corev1.Container{{
			Name: "c", Image: bed.Busybox, Command: []string{"sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"},
			VolumeMounts: []corev1.VolumeMount{{Name: "v", MountPath: "/v"}},
			Env:          []corev1.EnvVar{{Name: "A", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: local, Key: "a"}}}},
		}},
	}}
	watch, err := core.Pods("default").Watch(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", name).String()})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	if late == 0 {
		objects()
	}
	began := time.Now()
	if _, err := core.Pods("default").Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if late > 0 {
		timer := time.AfterFunc(late, objects)
		defer timer.Stop()
	}
	for event := range watch.ResultChan() {
		seen, ok := event.Object.(*corev1.Pod)
		if !ok {
			t.Fatalf("watching pod %q: %v", name, event.Object)
		}
		for _, c := range seen.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
				return time.Since(began).Round(time.Millisecond)
			}
		}
	}
	t.Fatalf("pod %q was not Ready in time", name)
	return 0
}

// fewEvents fails the test if more than one pod has events with these reasons. On a busy machine a
// cache of the API server may lag by more than a second, but rarely.
func (p place) fewEvents(ctx context.Context, t *testing.T, reasons ...string) {
	t.Helper()
	list, err := p.client.CoreV1().Events("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	of := map[string]string{}
	for _, e := range list.Items {
		if slices.Contains(reasons, e.Reason) {
			of[e.InvolvedObject.Name] += fmt.Sprintf("%s: %s\n", e.Reason, strings.TrimSpace(e.Message))
		}
	}
	t.Logf("events: %v", of)
	if len(of) > 1 {
		t.Errorf("%d pods have events of failures", len(of))
	}
}
