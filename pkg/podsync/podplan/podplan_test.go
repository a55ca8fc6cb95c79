package podplan_test

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/nodeagent/nodeagent/pkg/podsync/podplan"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/status"
)

// The hash is kept in the records of running containers: when this test fails, an upgrade restarts
// them all.
func TestSpecHashNeverChanges(t *testing.T) {
	c := corev1.Container{Name: "app", Image: "registry.k8s.io/pause:3.10"}
	const want = "91acffc37d547cd8"
	if got := podspec.SpecHash(&c); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	c.Resources.Limits = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}
	c.Env = []corev1.EnvVar{{Name: "A", Value: "b"}}
	if got := podspec.SpecHash(&c); got != want {
		t.Error("resources, which change in place, are part of the hash")
	}
	c.Image = "registry.k8s.io/pause:3.11"
	if got := podspec.SpecHash(&c); got == want {
		t.Error("the image is not part of the hash")
	}
}

func TestDoubling(t *testing.T) {
	for count, want := range []time.Duration{0, 10, 20, 40, 80, 160, 300, 300, 300} {
		if got := podplan.Doubling(count, 10*time.Second, 300*time.Second); got != want*time.Second {
			t.Errorf("after %d failures %v, want %v", count, got, want*time.Second)
		}
	}
	if got := podplan.Doubling(1_000_000, time.Second, time.Minute); got != time.Minute {
		t.Errorf("after a million failures %v", got)
	}
}

// Restart policy of the pod, of the container and its rules, by exit code.
func TestRestartPolicies(t *testing.T) {
	always, never, onFailure := corev1.ContainerRestartPolicyAlways, corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure
	rule := func(operator corev1.ContainerRestartRuleOnExitCodesOperator, codes ...int32) []corev1.ContainerRestartRule {
		return []corev1.ContainerRestartRule{{
			Action:    corev1.ContainerRestartRuleActionRestart,
			ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: operator, Values: codes},
		}}
	}
	const again, good, bad = podplan.Restarting, podplan.Succeeded, podplan.Failed
	for _, c := range []struct {
		pod       corev1.RestartPolicy
		own       *corev1.ContainerRestartPolicy
		rules     []corev1.ContainerRestartRule
		init      bool
		zero, one podplan.ContainerState // after exit code 0 and 1
	}{
		{pod: "Always", zero: again, one: again},
		{pod: "OnFailure", zero: good, one: again},
		{pod: "Never", zero: good, one: bad},
		{pod: "Always", init: true, zero: good, one: again},
		{pod: "OnFailure", init: true, zero: good, one: again},
		{pod: "Never", init: true, zero: good, one: bad},
		{pod: "Never", init: true, own: &always, zero: again, one: again}, // a sidecar
		{pod: "Always", own: &never, zero: good, one: bad},
		{pod: "Never", own: &onFailure, zero: good, one: again},
		{pod: "Never", own: &never, rules: rule("In", 1), zero: good, one: again},
		{pod: "Never", own: &never, rules: rule("NotIn", 1), zero: again, one: bad},
		{pod: "Always", init: true, own: &never, rules: rule("In", 2), zero: good, one: bad},
	} {
		for code, want := range []podplan.ContainerState{c.zero, c.one} {
			one := corev1.Container{Name: "c", Image: "i", RestartPolicy: c.own, RestartPolicyRules: c.rules}
			pod := &corev1.Pod{Spec: corev1.PodSpec{RestartPolicy: c.pod, Containers: []corev1.Container{one}}}
			if c.init {
				pod.Spec.InitContainers, pod.Spec.Containers = pod.Spec.Containers, []corev1.Container{{Name: "app"}, {Name: "other"}}
			}
			now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
			sandbox := &runtime.Sandbox{ID: "s", Ready: true, CreatedAt: now}
			var other []runtime.Container
			if !c.init { // keeps the pod from having ended
				pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: "zz"})
				other = append(other, runtime.Container{ID: "zz", Name: "zz", SandboxID: "s", State: runtime.Running})
			}
			observed := podplan.Observed{Runtime: runtime.Pod{Sandbox: sandbox, Containers: append([]runtime.Container{{
				ID: "x", Name: "c", SandboxID: "s", State: runtime.Exited, ExitCode: code, FinishedAt: now,
			}}, other...)}}
			got := podplan.View(podplan.Want{Pod: pod}, podplan.State{}, observed, now).Containers[0].State
			if got != want {
				t.Errorf("%s: after exit code %d %s, want %s", describe(c.pod, c.own, c.init), code, got, want)
			}
		}
	}
}

func describe(pod corev1.RestartPolicy, own *corev1.ContainerRestartPolicy, init bool) string {
	text := fmt.Sprintf("pod %s, init %v", pod, init)
	if own != nil {
		text += ", container " + string(*own)
	}
	return text
}

// What a plan starts is started as the next attempt, whatever of the earlier ones is left.
func TestNextAttempt(t *testing.T) {
	reported := func(s corev1.ContainerStatus) corev1.PodStatus {
		s.Name = "c"
		return corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{s}}
	}
	ended := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}
	sandbox := &runtime.Sandbox{ID: "s", Ready: true}
	for name, c := range map[string]struct {
		reported corev1.PodStatus
		records  []runtime.Container
		want     int
	}{
		"nothing":           {want: 0},
		"waiting":           {reported: reported(corev1.ContainerStatus{}), want: 0},
		"reported running":  {reported: reported(corev1.ContainerStatus{RestartCount: 4, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}), want: 5},
		"reported back-off": {reported: reported(corev1.ContainerStatus{RestartCount: 4, LastTerminationState: ended}), want: 5},
		"exited":            {records: []runtime.Container{{Name: "c", Attempt: 2, State: runtime.Exited}, {Name: "c", Attempt: 3, State: runtime.Exited}}, want: 4},
		"runs":              {records: []runtime.Container{{Name: "c", Attempt: 3, State: runtime.Running}}, want: 3},
		"created":           {records: []runtime.Container{{Name: "c", Attempt: 3, State: runtime.Created, SandboxID: "s"}}, want: 3},
		"created elsewhere": {records: []runtime.Container{{Name: "c", Attempt: 3, State: runtime.Created, SandboxID: "old"}}, want: 4},
		"record is newer":   {reported: reported(corev1.ContainerStatus{RestartCount: 1, State: ended}), records: []runtime.Container{{Name: "c", Attempt: 3, State: runtime.Exited}}, want: 4},
	} {
		pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}}
		observed := podplan.Observed{Runtime: runtime.Pod{Sandbox: sandbox, Containers: c.records}}
		view := podplan.View(podplan.Want{Pod: pod, Reported: c.reported}, podplan.State{}, observed, time.Now())
		if got := view.Containers[0].Attempt; got != c.want {
			t.Errorf("%s: attempt %d, want %d", name, got, c.want)
		}
	}
}

// One step of a worker for a pod at rest: what each wake of each pod costs beside the runtime's
// answer.
func BenchmarkStepOfPodAtRest(b *testing.B) {
	l := newLife(3)
	l.advance(10 * time.Minute)
	for range 6 {
		l.allAnswer()
	}
	want, state, observed := l.want, l.state, l.observed
	b.ReportAllocs()
	for b.Loop() {
		next, view, _ := podplan.Step(want, state, observed, l.now)
		_ = status.Pod(want, next, observed, view, l.now)
	}
	b.ReportMetric(float64(len(observed.Runtime.Containers)), "containers")
}
