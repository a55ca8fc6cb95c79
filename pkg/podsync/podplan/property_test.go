package podplan_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/nodeagent/nodeagent/pkg/podsync/podplan"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// life is one generated life: a pod and a source of choices, all from one seed.
type life struct {
	*host
	rand *rand.Rand
	log  *strings.Builder
}

func newLife(seed uint64) *life {
	r := rand.New(rand.NewPCG(seed, 7))
	var log strings.Builder
	l := &life{rand: r, log: &log}
	l.host = newHost(l.pod(), func(format string, args ...any) { fmt.Fprintf(&log, format+"\n", args...) })
	l.pureEvery = 8
	for _, c := range specs(l.want.Pod) {
		l.stubborn[c.Name] = l.chance(20)
	}
	return l
}

func (l *life) chance(percent int) bool { return l.rand.IntN(100) < percent }

// pod makes a pod with every feature that the planner knows, each with some chance.
func (l *life) pod() *corev1.Pod {
	grace := int64(l.rand.IntN(40))
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "uid", Generation: 1}}
	pod.Spec.TerminationGracePeriodSeconds = &grace
	pod.Spec.RestartPolicy = []corev1.RestartPolicy{"Always", "OnFailure", "Never"}[l.rand.IntN(3)]
	if l.chance(10) {
		limit := int64(1 + l.rand.IntN(600))
		pod.Spec.ActiveDeadlineSeconds = &limit
	}
	for i := range l.rand.IntN(3) {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: fmt.Sprintf("v%d", i)})
	}
	for i := range l.rand.IntN(4) {
		c := l.spec(fmt.Sprintf("init%d", i))
		if l.chance(50) {
			always := corev1.ContainerRestartPolicyAlways
			c.RestartPolicy = &always
		} else {
			c.Lifecycle, c.StartupProbe, c.LivenessProbe, c.ReadinessProbe = nil, nil, nil, nil
		}
		pod.Spec.InitContainers = append(pod.Spec.InitContainers, c)
	}
	for i := range 1 + l.rand.IntN(3) {
		pod.Spec.Containers = append(pod.Spec.Containers, l.spec(fmt.Sprintf("app%d", i)))
	}
	return pod
}

func (l *life) spec(name string) corev1.Container {
	c := corev1.Container{Name: name, Image: name + ":1", Resources: l.requirements()}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		if l.chance(20) {
			c.ResizePolicy = append(c.ResizePolicy, corev1.ContainerResizePolicy{ResourceName: name, RestartPolicy: corev1.RestartContainer})
		}
	}
	probe := &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(1)}}}
	hook := &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"x"}}}
	if l.chance(30) {
		c.StartupProbe = probe
	}
	if l.chance(30) {
		c.LivenessProbe = probe
	}
	if l.chance(30) {
		c.ReadinessProbe = probe
	}
	if l.chance(30) {
		c.Lifecycle = &corev1.Lifecycle{PreStop: hook}
		if l.chance(50) {
			c.Lifecycle.PostStart = hook
		}
	}
	return c
}

// event is one thing that happens: an action ends, well or not, time passes, a container ends, a
// probe answers, the agent or the machine restarts.
func (l *life) event() {
	if len(l.running) > 0 && l.chance(60) {
		l.failures = nil
		if l.chance(10) {
			l.failures = []failure{{err: l.failureOf()}}
		}
		l.finish(l.rand.IntN(len(l.running)))
		l.failures = nil
		return
	}
	if l.chance(10) {
		l.createSome()
	}
	switch n := l.rand.IntN(100); {
	case n < 30:
		l.now = l.now.Add(time.Duration(l.rand.IntN(20000)) * time.Millisecond)
	case n < 40 && !l.plan.WakeAt.IsZero() && l.plan.WakeAt.After(l.now):
		l.now = l.now.Add(l.plan.WakeAt.Sub(l.now))
	case n < 55:
		l.crash()
	case n < 85:
		l.answer()
	case n < 90:
		l.log.WriteString("> restart of the agent\n")
		l.restartAndCompare()
	case n < 92:
		l.log.WriteString("> reboot\n")
		l.reboot()
	case n < 93:
		l.log.WriteString("> sandbox lost\n")
		l.loseSandbox()
	case n < 98 && l.want.Pod.DeletionTimestamp == nil:
		l.resizeSome()
	case n < 99 && l.want.Pod.DeletionTimestamp == nil:
		l.log.WriteString("> new image\n")
		l.edit(func(p *corev1.Pod) { p.Spec.Containers[0].Image = fmt.Sprintf("app0:%d", l.rand.IntN(5)) })
	}
}

func (l *life) failureOf() error {
	err := errors.New("injected")
	switch l.rand.IntN(3) {
	case 0:
		return &podspec.ReasonError{Reason: "RunContainerError", Err: err}
	case 1:
		return &podspec.ReasonError{Reason: "CreateContainerConfigError", Err: err}
	}
	return err
}

// crash ends a container that runs.
func (l *life) crash() {
	if c := l.anyRunning(); c != nil {
		code := []int{0, 0, 1, 137}[l.rand.IntN(4)]
		fmt.Fprintf(l.log, "> %s exits with %d\n", c.Name, code)
		l.end(c, code)
	}
}

// answer is a probe's.
func (l *life) answer() {
	c := l.anyRunning()
	if c == nil {
		return
	}
	p := l.observed.Probes[c.ID]
	results := []podspec.ProbeResult{podspec.ProbeSuccess, podspec.ProbeSuccess, podspec.ProbeSuccess, podspec.ProbeFailure}
	result := results[l.rand.IntN(len(results))]
	for _, spec := range specs(l.want.Pod) {
		if spec.Name != c.Name {
			continue
		}
		switch kind := l.rand.IntN(3); {
		case kind == 0 && spec.StartupProbe != nil:
			p.Startup = result
		case kind == 1 && spec.LivenessProbe != nil:
			p.Liveness = result
		case kind == 2 && spec.ReadinessProbe != nil:
			p.Readiness = result
		}
	}
	l.observed.Probes[c.ID] = p
}

func (l *life) anyRunning() *runtime.Container {
	var ids []string
	for _, c := range l.observed.Runtime.Containers {
		if c.State == runtime.Running {
			ids = append(ids, c.ID)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	return l.byID(ids[l.rand.IntN(len(ids))])
}

// restartAndCompare restarts the agent, and holds the first status of its new life against the last
// of the old one: what was told of readiness, phase and restarts must be the same, since nothing
// happened to the pod.
func (l *life) restartAndCompare() {
	l.step()
	replacing := false // that a container ends for a newer spec is known to the agent alone
	for _, s := range l.state.Stops {
		replacing = replacing || s.Replace
	}
	if len(l.plan.Actions)+len(l.running)+len(l.observed.Completed) > 0 || l.frozen || replacing {
		l.restartAgent()
		return
	}
	before := l.status
	l.restartAgent()
	l.observed.Headroom = nil
	l.takeStep()
	after := l.reported()
	if a, b := told(before), told(after); a != b {
		l.rule(true, "a restart of the agent changes the status from\n\t%s to\n\t%s", a, b)
	}
}

// told is what services and people act on in a status.
func told(s corev1.PodStatus) string {
	var out strings.Builder
	fmt.Fprintf(&out, "%s %s", s.Phase, s.PodIP)
	for _, c := range s.Conditions {
		fmt.Fprintf(&out, " %s=%s@%s", c.Type, c.Status, c.LastTransitionTime.UTC().Format(time.TimeOnly))
	}
	for _, c := range append(append([]corev1.ContainerStatus{}, s.InitContainerStatuses...), s.ContainerStatuses...) {
		fmt.Fprintf(&out, "; %s#%d %v %v", c.Name, c.RestartCount, c.Ready, *c.Started)
	}
	return out.String()
}

// TestEveryLifeEnds plays generated lives through failures, restarts and reboots, with actions that
// end in any order. The host notes each broken rule; after its deletion every pod must be gone
// within the time that its grace and the back-off of what failed allow.
func TestEveryLifeEnds(t *testing.T) {
	lives := 800
	if testing.Short() {
		lives = 300
	}
	for seed := range uint64(lives) {
		l := newLife(seed)
		for range 150 {
			l.step()
			l.event()
		}
		l.log.WriteString("> deleted\n")
		l.deletePod(int64(l.rand.IntN(40)))
		for range 20 {
			l.step()
			l.event()
		}
		if l.chance(20) {
			l.want.Pod = nil
		}
		l.advance(5 * time.Minute)
		l.rule(!l.plan.Done, "not done: %v; left: %+v", l.plan, l.observed.Runtime)
		if len(l.wrong) > 0 {
			pod, _ := json.Marshal(l.want.Pod)
			t.Fatalf("seed %d:\n%s\nlife:\n%s\npod: %s", seed, strings.Join(l.wrong, "\n"), l.log, pod)
		}
	}
}

// TestEveryLifeSettles plays lives to a point, heals everything, and lets time pass: the pod must
// come to rest, running everything it should or ended for good.
func TestEveryLifeSettles(t *testing.T) {
	for seed := range uint64(250) {
		l := newLife(seed + 1_000_000)
		for range 100 {
			l.step()
			l.event()
		}
		l.headroom = podplan.Headroom{}
		l.advance(10 * time.Minute)
		for range 6 { // each init container takes a round
			l.allAnswer()
		}
		l.rule(!l.ready() && !l.plan.Stopped, "neither ready nor ended: %s; %v", summary(l.status), l.plan)
		l.rule(len(l.plan.Actions) > 0, "not at rest: %v", l.plan)
		l.checkResources()
		if len(l.wrong) > 0 {
			pod, _ := json.Marshal(l.want.Pod)
			t.Fatalf("seed %d:\n%s\nlife:\n%s\npod: %s", seed, strings.Join(l.wrong, "\n"), l.log, pod)
		}
	}
}

func (l *life) allAnswer() {
	for i := range l.observed.Runtime.Containers {
		c := &l.observed.Runtime.Containers[i]
		switch {
		case c.State != runtime.Running:
		case strings.HasPrefix(c.Name, "init") && !l.sidecar(c.Name):
			l.end(c, 0)
		default:
			l.observed.Probes[c.ID] = podspec.Probes{Startup: podspec.ProbeSuccess, Liveness: podspec.ProbeSuccess, Readiness: podspec.ProbeSuccess}
		}
	}
	l.advance(10 * time.Minute)
}

func (l *life) sidecar(name string) bool {
	_, role := podspec.Find(l.want.Pod, name)
	return role == podspec.Sidecar
}

func (l *life) ready() bool {
	for _, c := range l.status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue || l.someSucceeded()
		}
	}
	return false
}

// someSucceeded says that an app container ended well under OnFailure or Never, so that the pod is
// not ready and need not be.
func (l *life) someSucceeded() bool {
	for _, c := range l.status.ContainerStatuses {
		if c.State.Terminated != nil && l.want.Pod.Spec.RestartPolicy != corev1.RestartPolicyAlways {
			return true
		}
	}
	return false
}
