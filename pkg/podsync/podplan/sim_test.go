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
	have       podplan.Have
	memory     podplan.Memory
	plan       podplan.Plan
	status     corev1.PodStatus
	told       corev1.PodStatus // the last that was sent to the API
	frozen     bool
	room       podplan.Room           // for this pod
	given      *corev1.Pod            // with what it was given
	cgroup     *limits                // of the pod; nil while there is none
	flying     []podplan.Action       // under way; finished by finish
	madeFrom   map[string]*corev1.Pod // by key of an action under way: the pod when it was launched
	failures   []failure
	held       []string        // prefixes of actions that do not end by themselves
	stubborn   map[string]bool // containers that ignore their stop signal
	instant    map[string]int  // containers that end at once, with this code
	wrong      []string        // rules that were broken
	log        func(format string, args ...any)
	lastLine   string
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
	h.have = podplan.Have{
		Runtime: runtime.Pod{PodRef: runtime.PodRef{UID: pod.UID, Namespace: pod.Namespace, Name: pod.Name}},
		Probes:  map[string]podspec.Probes{}, Messages: map[string]string{}, Busy: map[string]bool{},
	}
	return h
}

func (h *host) rule(broken bool, format string, args ...any) {
	if broken {
		h.wrong = append(h.wrong, fmt.Sprintf("%v: ", h.now.Sub(h.start))+fmt.Sprintf(format, args...))
	}
}

// look is one turn of a worker: observe, plan, launch, report. It returns the actions launched.
func (h *host) look() []podplan.Action {
	have := h.have
	have.Memory = &h.memory
	want := h.memory.Allocate(h.want, have.Runtime, &h.room)
	h.given = want.Pod
	h.memory.Observe(want, have, h.now)
	h.plan = podplan.Next(want, have, h.now)
	if again := podplan.Next(want, have, h.now); fmt.Sprint(again) != fmt.Sprint(h.plan) {
		h.rule(true, "a plan made twice differs: %v and %v", h.plan, again)
	}
	h.rule(!h.plan.WakeAt.IsZero() && !h.plan.WakeAt.After(h.now), "asks to be woken in the past")
	keys := map[string]bool{}
	for _, a := range h.plan.Actions {
		h.rule(keys[a.Key()] || h.have.Busy[a.Key()], "%s while its key is under way", a)
		keys[a.Key()] = true
		h.check(a)
	}
	if h.plan.Done {
		h.rule(!h.have.Runtime.Empty() || h.have.Residue != podspec.Residue{}, "done while something is left")
	}
	if !h.frozen && h.want.Pod != nil {
		h.status = status.Pod(want, have, h.now)
		h.frozen = h.plan.Stopped
	}
	h.launch()
	return h.plan.Actions
}

// launch takes the plan's actions up, and shows them and what is reported.
func (h *host) launch() {
	for _, a := range h.plan.Actions {
		h.have.Busy[a.Key()] = true
		h.madeFrom[a.Key()] = h.given
		h.flying = append(h.flying, a)
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

// settle looks and finishes actions until nothing more is planned or under way.
func (h *host) settle() {
	for range 200 {
		launched := len(h.look())
		finished := 0
		for i := 0; i < len(h.flying); {
			if h.isHeld(h.flying[i]) {
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

// advance lets time pass, and looks whenever the plan asked for it.
func (h *host) advance(d time.Duration) {
	until := h.now.Add(d)
	for range 10000 {
		h.settle()
		next := h.plan.WakeAt
		if next.IsZero() || next.After(until) {
			h.now = h.now.Add(until.Sub(h.now))
			h.settle()
			return
		}
		h.now = h.now.Add(next.Sub(h.now))
	}
	h.rule(true, "woken more than 10000 times in %v", d)
}

// finish ends the action at an index: applied, or failed.
func (h *host) finish(i int) {
	a := h.flying[i]
	h.flying = append(h.flying[:i:i], h.flying[i+1:]...)
	delete(h.have.Busy, a.Key())
	var result podplan.ActionResult
	for _, f := range h.failures {
		if strings.HasPrefix(a.String(), f.prefix) {
			result.Err = f.err
		}
	}
	if result.Err == nil || leavesRecord(result.Err) {
		result = h.apply(a, result.Err)
	}
	h.memory.Note(a, result, h.now)
}

func leavesRecord(err error) bool {
	var known *podspec.ReasonError
	return errors.As(err, &known) && known.Reason == "RunContainerError"
}

// check notes what no plan may name.
func (h *host) check(a podplan.Action) {
	ending := h.want.Pod == nil || h.want.Pod.DeletionTimestamp != nil || h.want.Outcome != nil
	sandbox := h.have.Runtime.Sandbox
	switch a := a.(type) {
	case podplan.StartSandbox:
		h.rule(ending, "%s for a pod that ends", a)
		h.rule(sandbox != nil, "%s while there is one", a)
	case podplan.StartContainer:
		h.rule(ending, "%s for a pod that ends", a)
		h.rule(sandbox == nil || !sandbox.Ready, "%s without a sandbox", a)
		h.rule(a.ImageID == "", "%s without an image", a)
		latest := h.have.Runtime.Latest(a.Container)
		h.rule(latest != nil && latest.State == runtime.Running, "%s while it runs", a)
		h.rule(latest != nil && latest.State == runtime.Exited && a.Attempt <= latest.Attempt, "%s again", a)
		h.checkOrder(a)
	case podplan.RemoveSandbox, podplan.UnmountVolumes, podplan.Cleanup, podplan.RemoveCgroup:
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
		latest := h.have.Runtime.Latest(c.Name)
		h.rule(latest == nil, "%s before init container %s ran", a, c.Name)
		if _, role := podspec.Find(h.want.Pod, c.Name); latest != nil && role == podspec.Init {
			h.rule(latest.State != runtime.Exited || latest.ExitCode != 0, "%s before init container %s succeeded", a, c.Name)
		}
	}
}

// healthy says that nothing about a running container asks for its end.
func (h *host) healthy(c *runtime.Container) bool {
	p := h.have.Probes[c.ID]
	stop := h.memory.Stops[c.ID]
	sandbox := h.have.Runtime.Sandbox
	want := h.want
	want.Pod = h.given
	view := podplan.Look(want, podplan.Have{Runtime: h.have.Runtime, Memory: &h.memory}, h.now)
	return stop.Message == "" && !view.Ends && p.Liveness != podspec.ProbeFailure && p.Startup != podspec.ProbeFailure &&
		sandbox != nil && sandbox.Ready && h.memory.Hooks[c.ID].PostStartError == ""
}

func (h *host) anyRuns() bool {
	for i := range h.have.Runtime.Containers {
		if h.have.Runtime.Containers[i].State == runtime.Running {
			return true
		}
	}
	return false
}

func (h *host) byID(id string) *runtime.Container {
	for i := range h.have.Runtime.Containers {
		if h.have.Runtime.Containers[i].ID == id {
			return &h.have.Runtime.Containers[i]
		}
	}
	return nil
}

// apply does what an action does. With an error, a container is left that never ran.
func (h *host) apply(a podplan.Action, err error) podplan.ActionResult {
	result := podplan.ActionResult{Err: err}
	rt := &h.have.Runtime
	defer h.checkLimits(a)
	switch a := a.(type) {
	case podplan.UpdateResources, podplan.ResizePod:
		h.resize(a)
	case podplan.MountVolume:
		h.have.Residue.Volumes, h.have.Residue.Dir = true, true
	case podplan.StartSandbox:
		h.have.Residue.Dir, h.have.Residue.Cgroup = true, true
		l := limitsOf(h.madeFrom[a.Key()])
		h.cgroup = &l
		rt.Sandbox = &runtime.Sandbox{
			ID: runtime.SandboxID(h.want.UID, a.Attempt), Attempt: a.Attempt, Ready: true, CreatedAt: h.now.Round(0),
			IPs: []netip.Addr{netip.MustParseAddr(fmt.Sprintf("10.244.0.%d", 5+a.Attempt))},
		}
	case podplan.EnsureImage:
		result.ImageID = "sha256:" + a.Ref
	case podplan.StartContainer:
		h.startContainer(a, err)
	case podplan.StopContainer:
		if c := h.byID(a.ContainerID); c != nil && c.State == runtime.Running {
			switch {
			case a.Kill:
				h.end(c, 137)
			case !h.stubborn[c.Name]:
				h.end(c, 143)
			}
		}
	case podplan.RemoveContainer:
		for i := range rt.Containers {
			if rt.Containers[i].ID == a.ContainerID {
				rt.Containers = append(rt.Containers[:i:i], rt.Containers[i+1:]...)
				break
			}
		}
	case podplan.RemoveSandbox:
		rt.Sandbox = nil
	case podplan.UnmountVolumes:
		h.have.Residue.Volumes = false
	case podplan.RemoveCgroup:
		h.have.Residue.Cgroup, h.cgroup = false, nil
	case podplan.Cleanup:
		h.have.Residue, h.cgroup = podspec.Residue{}, nil
	}
	return result
}

// create makes the record that the start of a container begins with; nil when the sandbox went
// while it was under way.
func (h *host) create(a podplan.StartContainer) *runtime.Container {
	rt := &h.have.Runtime
	id := runtime.ContainerID(h.want.UID, a.Container, a.Attempt)
	if c := h.byID(id); c != nil || rt.Sandbox == nil {
		return c
	}
	rt.Containers = append(rt.Containers, runtime.Container{
		ID: id, Name: a.Container, Attempt: a.Attempt, ImageID: a.ImageID, Recorded: runtime.Recorded{ImageDigest: a.ImageID}, CreatedAt: h.now.Round(0), SandboxID: rt.Sandbox.ID, State: runtime.Created,
	})
	return &rt.Containers[len(rt.Containers)-1]
}

// createSome takes every start that is under way as far as its record.
func (h *host) createSome() {
	for _, a := range h.flying {
		if start, ok := a.(podplan.StartContainer); ok {
			h.create(start)
		}
	}
}

func (h *host) startContainer(a podplan.StartContainer, err error) {
	c := h.create(a)
	if c == nil {
		return
	}
	made := h.madeFrom[a.Key()]
	for _, spec := range specs(made) {
		if spec.Name == a.Container {
			c.Image, c.SpecHash, c.SpecResources = spec.Image, podspec.SpecHash(&spec), podspec.ResourcesOf(made, &spec).String()
		}
	}
	c.State, c.StartedAt = runtime.Running, h.now.Round(0)
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
	delete(h.have.Probes, c.ID)
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

// restartAgent forgets all that only the agent knew. What was under way is lost in the middle or
// done unseen.
func (h *host) restartAgent() {
	h.memory = podplan.Memory{}
	h.have.Probes, h.have.Busy = map[string]podspec.Probes{}, map[string]bool{}
	h.flying = nil
}

// reboot ends everything that runs and takes the namespaces.
func (h *host) reboot() {
	h.restartAgent()
	h.loseSandbox()
	for i := range h.have.Runtime.Containers {
		if c := &h.have.Runtime.Containers[i]; c.State == runtime.Running {
			h.end(c, 255)
		}
	}
}

func (h *host) loseSandbox() {
	if s := h.have.Runtime.Sandbox; s != nil {
		lost := *s
		lost.Ready = false
		h.have.Runtime.Sandbox = &lost
	}
}
