package status_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"

	"github.com/nodeagent/nodeagent/internal/golden"
	"github.com/nodeagent/nodeagent/pkg/podsync/podplan"
	"github.com/nodeagent/nodeagent/pkg/status"
)

func now() time.Time { return time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC) }

func read(t *testing.T, data []byte, into any) {
	t.Helper()
	if err := yaml.UnmarshalStrict(data, into); err != nil {
		t.Fatalf("reading %T: %v", into, err)
	}
}

func write(t *testing.T, v any) []byte {
	t.Helper()
	data, err := yaml.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestPod: in.pod.yaml is a pod with the status that the API holds, in.host.yaml what is observed
// of it, with the state of an earlier step, in.want.yaml (if there) the rest of what is wanted.
// The plan is shown beside the status, since both must follow from the same. Whole lives of pods
// are in podplan's testdata.
func TestPod(t *testing.T) {
	golden.Run(t, "testdata/pod/*.txtar", func(t *testing.T, files map[string][]byte) map[string][]byte {
		var pod corev1.Pod
		var before struct {
			podplan.Observed
			State podplan.State // of an earlier step
		}
		var want podplan.Want
		read(t, files["in.pod.yaml"], &pod)
		read(t, files["in.host.yaml"], &before)
		read(t, files["in.want.yaml"], &want)
		want.UID, want.Pod, want.Reported = pod.UID, &pod, pod.Status
		reported := want.Reported.DeepCopy()
		state, view, p := podplan.Step(want, before.State, before.Observed, now())
		got := status.Pod(want, state, before.Observed, view, now())
		if !equality.Semantic.DeepEqual(reported, &want.Reported) {
			t.Error("the reported status was written to")
		}
		var plan strings.Builder
		for _, a := range p.Actions {
			fmt.Fprintln(&plan, a)
		}
		fmt.Fprintf(&plan, "stopped: %v, done: %v\n", p.Stopped, p.Done)
		if !p.WakeAt.IsZero() {
			fmt.Fprintf(&plan, "wake in %v\n", p.WakeAt.Sub(now()))
		}
		want.Reported = got
		later := now().Add(time.Second)
		state, view, _ = podplan.Step(want, state, before.Observed, later)
		if again := status.Pod(want, state, before.Observed, view, later); !p.Stopped && !equality.Semantic.DeepEqual(got, again) {
			t.Errorf("reported again, the status differs:\n%s", golden.LineDiff(string(write(t, got)), string(write(t, again))))
		}
		return map[string][]byte{"want.plan": []byte(plan.String()), "want.status.yaml": write(t, got)}
	})
}

// TestNode: in.facts.yaml are the facts, in.node.yaml (if there) the Node that exists.
func TestNode(t *testing.T) {
	golden.Run(t, "testdata/node/*.txtar", func(t *testing.T, files map[string][]byte) map[string][]byte {
		var facts status.Facts
		read(t, files["in.facts.yaml"], &facts)
		wanted := status.Node(nil, facts, now())
		if len(files["in.node.yaml"]) == 0 {
			return map[string][]byte{"want.node.yaml": write(t, wanted)}
		}
		var existing corev1.Node
		read(t, files["in.node.yaml"], &existing)
		registered, changed := status.Register(&existing, wanted)
		if _, again := status.Register(registered, wanted); again {
			t.Error("a node that was just registered is to be changed again")
		}
		node := status.Node(registered, facts, now())
		return map[string][]byte{"want.node.yaml": write(t, node), "want.changed": fmt.Appendln(nil, changed)}
	})
}

func TestNodeConditionsMoveOnlyWhenTheirStatusDoes(t *testing.T) {
	facts := status.Facts{Name: "n", Capacity: corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("2Gi"), corev1.ResourcePods: resource.MustParse("110"),
	}}
	first := status.Node(nil, facts, now())
	second := status.Node(first, facts, now().Add(time.Minute))
	facts.Conditions.RuntimeError = "connection refused"
	third := status.Node(second, facts, now().Add(2*time.Minute))
	for i, c := range third.Status.Conditions {
		want := now()
		if c.Type == corev1.NodeReady {
			want = now().Add(2 * time.Minute)
			if i != len(third.Status.Conditions)-1 {
				t.Error("Ready is not last")
			}
		}
		if !c.LastTransitionTime.Time.Equal(want) || !c.LastHeartbeatTime.Time.Equal(now().Add(2*time.Minute)) {
			t.Errorf("%s: transition %v, heartbeat %v", c.Type, c.LastTransitionTime, c.LastHeartbeatTime)
		}
	}
	if !equality.Semantic.DeepEqual(first.Status.Allocatable, third.Status.Allocatable) {
		t.Error("what is allocatable changed")
	}
}

func TestNodeImagesAreTheLargestWithFewNames(t *testing.T) {
	var facts status.Facts
	for i := range 60 {
		names := []string{fmt.Sprint("i", i), "b", "c", "d", "e", "f"}
		facts.Images = append(facts.Images, corev1.ContainerImage{Names: names, SizeBytes: int64(i)})
	}
	for limit, count := range map[int]int{0: 50, 3: 3, -1: 60} {
		facts.MaxImages = limit
		images := status.Node(nil, facts, now()).Status.Images
		descending := slices.IsSortedFunc(images, func(a, b corev1.ContainerImage) int { return int(b.SizeBytes - a.SizeBytes) })
		if len(images) != count || !descending || images[0].SizeBytes != 59 || len(images[0].Names) != 5 {
			t.Errorf("limit %d: %d images, the first %+v", limit, len(images), images[0])
		}
	}
	if len(facts.Images[59].Names) != 6 {
		t.Error("the facts were written to")
	}
}
