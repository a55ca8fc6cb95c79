package podplan_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/podplan"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/status"
)

// host is a strict host in memory: it applies actions, keeps what they lead to, and notes every
// action that must not have been planned. Its clock stands still but for advance.
type host struct {
	start, now time.Time
	want       podplan.Want
	observed   podplan.Observed
	state      podplan.State
	view       podplan.PodView
	plan       podplan.Plan
	status     corev1.PodStatus
	told       corev1.PodStatus // the last that was sent to the API
	frozen     bool
	headroom   podplan.Headroom       // for this pod
	allocated  *corev1.Pod            // with what it was allocated
	cgroup     *limits                // of the pod; nil while there is none
	running    []podplan.Action       // finish ends them
	madeFrom   map[string]*corev1.Pod // by key of a running action: the pod when it began
	failures   []failure
	held       []string        // prefixes of actions that do not end by themselves
	stubborn   map[string]bool // containers that ignore their stop signal
	instant    map[string]int  // containers that end at once, with this code
	wrong      []string        // rules that were broken
	log        func(format string, args ...any)
	lastLine   string
	steps      int
	pureEvery  int // checkPure at every n-th step; 0: at every one
}

// failure makes actions fail whose text begins with prefix.
type failure struct {
	prefix string
	err    error
}

func newHost(pod *corev1.Pod, log func(string, ...any)) *host {
	h := &host{
		start: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), stubborn: map[string]bool{}, instant: map[string]int{}, log: log,
		madeFrom: map[string]*corev1.Pod{},
	}
	h.now = h.start
	h.want = podplan.Want{UID: pod.UID, Pod: pod, Reported: pod.Status, HostIPs: []netip.Addr{netip.MustParseAddr("192.168.77.2")}}
	h.observed = podplan.Observed{
		Runtime: runtime.Pod{PodRef: runtime.PodRef{UID: pod.UID, Namespace: pod.Namespace, Name: pod.Name}},
		Probes:  map[string]podspec.Probes{}, Messages: map[string]string{}, Running: map[string]bool{},
	}
	return h
}

func (h *host) rule(broken bool, format string, args ...any) {
	if broken {
		h.wrong = append(h.wrong, fmt.Sprintf("%v: ", h.now.Sub(h.start))+fmt.Sprintf(format, args...))
	}
}

// step is one step of a worker: observe, plan, launch, report. It returns the actions launched.
func (h *host) step() []podplan.Action {
	h.observed.Headroom = &h.headroom
	h.takeStep()
	h.rule(!h.plan.WakeAt.IsZero() && !h.plan.WakeAt.After(h.now), "asks to be woken in the past")
	keys := map[string]bool{}
	for _, a := range h.plan.Actions {
		h.rule(keys[a.Key()] || h.observed.Running[a.Key()], "%s while an action of its key runs", a)
		keys[a.Key()] = true
		h.check(a)
	}
	if h.plan.Done {
		h.rule(!h.observed.Runtime.Empty() || len(h.observed.Held) > 0, "done while something is left")
	}
	if !h.frozen && h.want.Pod != nil {
		h.status = h.reported()
		h.frozen = h.plan.Stopped
	}
	h.launch()
	return h.plan.Actions
}

// takeStep takes the state one step, which must be pure: see checkPure.
func (h *host) takeStep() {
	h.steps++
	if h.steps%max(1, h.pureEvery) == 0 {
		h.checkPure()
	}
	h.state, h.view, h.plan = podplan.Step(h.want, h.state, h.observed, h.now)
	h.allocated, h.observed.Completed = h.view.Pod, nil
	_, _, again := podplan.Step(h.want, h.state, h.observed, h.now)
	h.rule(fmt.Sprint(again) != fmt.Sprint(h.plan), "with nothing new the next plan differs: %v and %v", h.plan, again)
}

// checkPure notes when podplan.Step writes to its arguments, or answers differently when it is
// asked the same again.
func (h *host) checkPure() {
	want, state, observed := deepCopy(h.want), deepCopy(h.state), deepCopy(h.observed)
	next, view, plan := podplan.Step(h.want, h.state, h.observed, h.now)
	h.rule(!reflect.DeepEqual(want, h.want), "a step writes to Want")
	h.rule(!reflect.DeepEqual(state, h.state), "a step writes to State: %+v, was %+v", h.state, state)
	h.rule(!reflect.DeepEqual(observed, h.observed), "a step writes to Observed: %+v, was %+v", h.observed, observed)
	next2, view2, plan2 := podplan.Step(want, state, observed, h.now)
	h.rule(!reflect.DeepEqual(next, next2), "a step taken twice makes two states: %+v and %+v", next, next2)
	h.rule(!reflect.DeepEqual(view, view2), "a step taken twice makes two views: %+v and %+v", view, view2)
	h.rule(!reflect.DeepEqual(plan, plan2), "a step taken twice makes two plans: %v and %v", plan, plan2)
}

// reported is the status of the last step.
func (h *host) reported() corev1.PodStatus {
	want := h.want
	want.Pod = h.view.Pod
	return status.Pod(want, h.state, h.observed, h.view, h.now)
}

// launch starts the plan's actions, and prints them and the status.
func (h *host) launch() {
	for _, a := range h.plan.Actions {
		h.observed.Running[a.Key()] = true
		h.madeFrom[a.Key()] = h.allocated
		h.running = append(h.running, a)
		h.print(a.String())
	}
	line := summary(h.status)
	if h.plan.Hold {
		line += " (held back)"
	}
	if line != h.lastLine {
		h.lastLine = line
		h.print("  = " + line)
	}
	if reflect.DeepEqual(h.status, h.told) || h.plan.Hold {
		return
	}
	h.told = h.status
	var reported corev1.PodStatus
	data, err := json.Marshal(h.status) // times lose their fractions on the way to the API
	if err == nil {
		err = json.Unmarshal(data, &reported)
	}
	h.rule(err != nil, "a status that is no JSON: %v", err)
	h.want.Reported = reported
}

func (h *host) print(line string) {
	h.log("%6s  %s", h.now.Sub(h.start), line)
}

// rest steps and finishes actions until nothing more is planned or runs.
func (h *host) rest() {
	for range 200 {
		launched := len(h.step())
		finished := 0
		for i := 0; i < len(h.running); {
			if h.isHeld(h.running[i]) {
				i++
				continue
			}
			h.finish(i)
			finished++
		}
		if launched+finished == 0 {
			return
		}
	}
	h.rule(true, "no end of actions without time passing: %v", h.plan.Actions)
}

func (h *host) isHeld(a podplan.Action) bool {
	for _, prefix := range h.held {
		if strings.HasPrefix(a.String(), prefix) {
			return true
		}
	}
	return false
}

// advance lets time pass, and steps whenever the plan asked for it.
func (h *host) advance(d time.Duration) {
	until := h.now.Add(d)
	for range 10000 {
		h.rest()
		next := h.plan.WakeAt
		if next.IsZero() || next.After(until) {
			h.now = h.now.Add(until.Sub(h.now))
			h.rest()
			return
		}
		h.now = h.now.Add(next.Sub(h.now))
	}
	h.rule(true, "woken more than 10000 times in %v", d)
}

// finish ends the action at an index: applied, or failed.
func (h *host) finish(i int) {
	a := h.running[i]
	h.running = append(h.running[:i:i], h.running[i+1:]...)
	delete(h.observed.Running, a.Key())
	var result podplan.ActionResult
	for _, f := range h.failures {
		if strings.HasPrefix(a.String(), f.prefix) {
			result.Err = f.err
		}
	}
	if result.Err == nil || leavesRecord(result.Err) {
		result = h.apply(a, result.Err)
	}
	h.observed.Completed = append(h.observed.Completed, podplan.Completed{Action: a, ActionResult: result})
}

func leavesRecord(err error) bool {
	var known *podspec.ReasonError
	return errors.As(err, &known) && known.Reason == "RunContainerError"
}

// check notes what no plan may name.
func (h *host) check(a podplan.Action) {
	ending := h.want.Pod == nil || h.want.Pod.DeletionTimestamp != nil || h.want.Termination != nil
	sandbox := h.observed.Runtime.Sandbox
	switch a := a.(type) {
	case podplan.StartSandbox:
		h.rule(ending, "%s for a pod that ends", a)
		h.rule(sandbox != nil, "%s while there is one", a)
	case podplan.StartContainer:
		h.rule(ending, "%s for a pod that ends", a)
		h.rule(sandbox == nil || !sandbox.Ready, "%s without a sandbox", a)
		h.rule(a.ImageID == "", "%s without an image", a)
		latest := h.observed.Runtime.Latest(a.Container)
		h.rule(latest != nil && latest.State == runtime.Running, "%s while it runs", a)
		h.rule(latest != nil && latest.State == runtime.Exited && a.Attempt <= latest.Attempt, "%s again", a)
		h.checkOrder(a)
	case podplan.RemoveSandbox, podplan.ReleaseClaim:
		h.rule(h.anyRuns(), "%s while containers run", a)
	case podplan.RemoveContainer:
		c := h.byID(a.ContainerID)
		h.rule(c == nil || c.State == runtime.Running, "%s while it runs or is gone", a)
	case podplan.StopContainer:
		c := h.byID(a.ContainerID)
		h.rule(c == nil || c.State != runtime.Running, "%s though it does not run", a)
		h.rule(!ending && c != nil && h.healthy(c), "%s without a cause", a)
	}
}

// checkOrder notes an app container that starts before the init containers are through.
func (h *host) checkOrder(a podplan.StartContainer) {
	isApp := false
	for i := range h.want.Pod.Spec.Containers {
		isApp = isApp || h.want.Pod.Spec.Containers[i].Name == a.Container
	}
	for i := range h.want.Pod.Spec.InitContainers {
		c := &h.want.Pod.Spec.InitContainers[i]
		if !isApp {
			return
		}
		latest := h.observed.Runtime.Latest(c.Name)
		h.rule(latest == nil, "%s before init container %s ran", a, c.Name)
		if _, role := podspec.Find(h.want.Pod, c.Name); latest != nil && role == podspec.Init {
			h.rule(latest.State != runtime.Exited || latest.ExitCode != 0, "%s before init container %s succeeded", a, c.Name)
		}
	}
}

// healthy says that nothing about a running container asks for its end.
func (h *host) healthy(c *runtime.Container) bool {
	p := h.observed.Probes[c.ID]
	stop := h.state.Stops[c.ID]
	sandbox := h.observed.Runtime.Sandbox
	want := h.want
	want.Pod = h.allocated
	view := podplan.View(want, h.state, podplan.Observed{Runtime: h.observed.Runtime}, h.now)
	return stop.Message == "" && !view.Ends && p.Liveness != podspec.ProbeFailure && p.Startup != podspec.ProbeFailure &&
		sandbox != nil && sandbox.Ready && h.state.Hooks[c.ID].PostStartError == ""
}

func (h *host) anyRuns() bool {
	for i := range h.observed.Runtime.Containers {
		if h.observed.Runtime.Containers[i].State == runtime.Running {
			return true
		}
	}
	return false
}

func (h *host) byID(id string) *runtime.Container {
	for i := range h.observed.Runtime.Containers {
		if h.observed.Runtime.Containers[i].ID == id {
			return &h.observed.Runtime.Containers[i]
		}
	}
	return nil
}

// apply does what an action does: what podplan.Simulate says, but for containers that ignore their
// stop signal and for limits, which nobody observes. With an error, it leaves the record of a
// container that never ran.
func (h *host) apply(a podplan.Action, err error) podplan.ActionResult {
	defer h.checkLimits(a)
	var result podplan.ActionResult
	switch a := a.(type) {
	case podplan.StopContainer:
		c := h.byID(a.ContainerID)
		if c == nil || c.State != runtime.Running || !a.Kill && h.stubborn[c.Name] {
			return result
		}
		result = h.simulate(a)
		delete(h.observed.Probes, a.ContainerID)
	case podplan.StartSandbox:
		result = h.simulate(a)
		h.observed.Runtime.Sandbox.IPs = []netip.Addr{netip.MustParseAddr(fmt.Sprintf("10.244.0.%d", 5+a.Attempt))}
	case podplan.StartContainer:
		h.startContainer(a, err)
	default:
		result = h.simulate(a)
	}
	h.limit(a)
	result.Err = err
	return result
}

func (h *host) simulate(a podplan.Action) (result podplan.ActionResult) {
	want := h.want
	want.Pod = h.madeFrom[a.Key()]
	h.observed, result = podplan.Simulate(want, h.observed, a, h.now.Round(0)) // records have no monotonic reading
	return result
}

// createSome takes every running start as far as its record.
func (h *host) createSome() {
	for _, a := range h.running {
		start, ok := a.(podplan.StartContainer)
		if !ok || h.byID(runtime.ContainerID(h.want.UID, start.Container, start.Attempt)) != nil {
			continue
		}
		h.simulate(start)
		if c := h.byID(runtime.ContainerID(h.want.UID, start.Container, start.Attempt)); c != nil {
			c.State, c.StartedAt = runtime.Created, time.Time{}
		}
	}
}

func (h *host) startContainer(a podplan.StartContainer, err error) {
	h.simulate(a)
	c := h.byID(runtime.ContainerID(h.want.UID, a.Container, a.Attempt))
	if c == nil {
		return // the sandbox went meanwhile
	}
	if err != nil {
		c.StartedAt, c.StartError = time.Time{}, err.Error()
		h.end(c, 128)
	}
	if code, ok := h.instant[c.Name]; ok {
		h.end(c, code)
	}
}

func (h *host) end(c *runtime.Container, code int) {
	// records have no monotonic reading
	c.State, c.ExitCode, c.FinishedAt = runtime.Exited, code, h.now.Round(0)
	delete(h.observed.Probes, c.ID)
}

// specs are all containers of a pod, in order.
func specs(pod *corev1.Pod) []corev1.Container {
	if pod == nil {
		return nil
	}
	out := append([]corev1.Container{}, pod.Spec.InitContainers...)
	out = append(out, pod.Spec.Containers...)
	for _, e := range pod.Spec.EphemeralContainers {
		out = append(out, corev1.Container(e.EphemeralContainerCommon))
	}
	return out
}

// edit changes the pod as an API update would: a new object.
func (h *host) edit(change func(*corev1.Pod)) {
	pod := h.want.Pod.DeepCopy()
	change(pod)
	pod.Generation++
	h.want.Pod = pod
}

func (h *host) deletePod(grace int64) {
	h.edit(func(p *corev1.Pod) {
		at := metav1.NewTime(h.now.Add(time.Duration(grace) * time.Second))
		p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &at, &grace
	})
}

// restartAgent forgets all that only the agent knew. Running actions are lost in the middle or
// done unseen.
func (h *host) restartAgent() {
	h.state = podplan.State{}
	h.observed.Probes, h.observed.Running, h.observed.Completed = map[string]podspec.Probes{}, map[string]bool{}, nil
	h.running = nil
}

// reboot ends everything that runs and takes the namespaces.
func (h *host) reboot() {
	h.restartAgent()
	h.loseSandbox()
	for i := range h.observed.Runtime.Containers {
		if c := &h.observed.Runtime.Containers[i]; c.State == runtime.Running {
			h.end(c, 255)
		}
	}
}

func (h *host) loseSandbox() {
	if s := h.observed.Runtime.Sandbox; s != nil {
		lost := *s
		lost.Ready = false
		h.observed.Runtime.Sandbox = &lost
	}
}
