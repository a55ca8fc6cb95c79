// Package reset is LOOP: it takes the agent off a machine.
//
// It observes what the machine has of the agent (the daemon's unit, pods, images, Service rules,
// cgroups, files), Plan, which is pure, decides what to remove and in which order, and Resetter
// carries the steps out through the roles of Config. It removes what the agent made and what join
// wrote; it never touches pods of containerd's CRI plugin, other programs' rules, another agent's
// cgroups, kernel parameters, or the API server.
package reset

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// Phase is a group of steps.
type Phase int

// The phases, in order. Service rules go after the pods that they lead to; what remembers what is
// still to undo, the state, goes last.
const (
	PhaseDaemon Phase = iota + 1
	PhasePods
	PhaseImages
	PhaseRules
	PhaseCgroups
	PhaseIdentity
	PhaseState
)

// Phases is how many there are.
const Phases = int(PhaseState)

func (p Phase) String() string {
	names := []string{"", "daemon", "pods", "images", "service rules", "cgroups", "identity", "state"}
	if p < PhaseDaemon || p > PhaseState {
		return fmt.Sprintf("phase %d", int(p))
	}
	return names[p]
}

// Action is what a step does.
type Action string

// The actions, in the order in which a plan can hold them.
const (
	StopDaemon       Action = "stop and disable"
	CheckStopped     Action = "check that no agent answers at"
	AwaitContainerd  Action = "wait for containerd"
	RemoveContainer  Action = "remove container"
	RemoveSandbox    Action = "remove the sandbox and release the addresses of pod"
	ReleaseNetwork   Action = "release the addresses of sandbox"
	RemoveNamespaces Action = "remove the namespaces of pod"
	RemovePod        Action = "remove volumes, cgroup, folder and logs of pod"
	StopPump         Action = "stop the log pump"
	RemoveImage      Action = "remove image"
	RemoveRules      Action = "remove"
	FindRules        Action = "look again for Service rules"
	RemoveCgroup     Action = "remove cgroup"
	RemoveFile       Action = "remove file"
	RemoveFolder     Action = "remove folder"
	RemoveEmpty      Action = "remove empty folder"
)

// Step is one thing to do.
type Step struct {
	Phase  Phase
	Action Action
	// Target is what it is done to.
	Target string
	// Why says what makes it necessary.
	Why string
	// Maybe says that the step finds out for itself whether there is anything to do.
	Maybe bool

	id string // of the container, sandbox, pod or image; Target names it for people
}

func (s Step) String() string {
	return strings.TrimSpace(fmt.Sprintf("[%d/%d] %s %s", s.Phase, Phases, s.Action, s.Target)) + ": " + s.Why
}

// Options choose what to remove beyond what is always removed.
type Options struct {
	// Images removes all images of containerd's namespace.
	Images bool
}

// Observed is what a machine has of the agent.
type Observed struct {
	// Unit is the daemon's. Active: it runs. Enabled: it starts at boot.
	Unit            string
	Active, Enabled bool
	// Answers is the socket at which an agent answers; "": none does.
	Answers string
	// Containerd is its address, set where it has to be asked. Unreachable says why it could not
	// be; "": it answered, or was not asked.
	Containerd, Unreachable string
	Pods                    []Pod
	// Networks are sandboxes that hold addresses, by id, with the path of their namespace.
	Networks map[string]string
	// Namespaces are pods with pinned namespaces.
	Namespaces []types.UID
	// Residue are pods with volumes, cgroups, folders or logs.
	Residue []types.UID
	// Foreign are pods of containerd's CRI plugin: a kubelet's.
	Foreign map[types.UID]bool
	// Pump: the log pump has a socket.
	Pump   bool
	Images []Image
	// Rules names what was found of proxy modes. RulesUnknown says why there may be more; "": there
	// is no more.
	Rules        []string
	RulesUnknown string
	// Cgroups are the kubepods groups that were found.
	Cgroups []string
	// Files are those of the identity; Folders hold state; Empty may be empty once all else is
	// gone.
	Files, Folders, Empty []string
}

// Pod is a pod that containerd or the agent's records know.
type Pod struct {
	UID             types.UID
	Namespace, Name string
	Sandbox         string // id; "": none
	Containers      []Container
}

func (p Pod) String() string { return p.Namespace + "/" + p.Name }

// Container is one attempt of a container.
type Container struct{ ID, Name string }

// Image is one image in containerd's namespace.
type Image struct{ ID, Name string }

// podsOf are the runtime's pods as Plan wants them.
func podsOf(found []runtime.Pod) []Pod {
	var pods []Pod
	for _, f := range found {
		p := Pod{UID: f.UID, Namespace: f.Namespace, Name: f.Name}
		if f.Sandbox != nil {
			p.Sandbox = f.Sandbox.ID
		}
		for _, c := range f.Containers {
			p.Containers = append(p.Containers, Container{c.ID, c.Name})
		}
		pods = append(pods, p)
	}
	return pods
}

func imagesOf(found []runtime.Image) []Image {
	var images []Image
	for _, f := range found {
		images = append(images, Image{f.ID, cmp.Or(slices.Concat(f.Tags, []string{f.ID})...)})
	}
	return images
}

// Plan returns the steps that take the agent off, in order; none: nothing of it is there.
func Plan(o Observed, options Options) []Step {
	steps := slices.Concat(daemonSteps(o), containerdSteps(o, options))
	for _, what := range o.Rules {
		steps = append(steps, Step{Phase: PhaseRules, Action: RemoveRules, Target: what, Why: "nobody keeps them up to date any more"})
	}
	if o.RulesUnknown != "" {
		steps = append(steps, Step{Phase: PhaseRules, Action: FindRules, Why: "not all could be looked for: " + o.RulesUnknown, Maybe: true})
	}
	for _, file := range o.Files {
		steps = append(steps, Step{Phase: PhaseIdentity, Action: RemoveFile, Target: file, Why: "join or the agent wrote it"})
	}
	for _, dir := range o.Folders {
		steps = append(steps, Step{Phase: PhaseState, Action: RemoveFolder, Target: dir, Why: "it holds the agent's state"})
	}
	certain := len(steps) > 0
	for _, dir := range o.Cgroups {
		steps = append(steps, Step{Phase: PhaseCgroups, Action: RemoveCgroup, Target: dir, Why: "if no pod and no other agent uses it", Maybe: true})
	}
	if certain { // where the agent has not been, an empty folder is not its own
		for _, dir := range o.Empty {
			steps = append(steps, Step{Phase: PhaseState, Action: RemoveEmpty, Target: dir, Why: "if nothing is left in it", Maybe: true})
		}
	}
	slices.SortStableFunc(steps, func(a, b Step) int { return cmp.Compare(a.Phase, b.Phase) })
	return steps
}

func daemonSteps(o Observed) []Step {
	var steps []Step
	if o.Active || o.Enabled {
		why := "it runs"
		if !o.Active {
			why = "it starts at boot"
		}
		steps = append(steps, Step{Phase: PhaseDaemon, Action: StopDaemon, Target: o.Unit, Why: why})
	}
	if o.Answers != "" {
		steps = append(steps, Step{Phase: PhaseDaemon, Action: CheckStopped, Target: o.Answers, Why: "it would start the pods again"})
	}
	return steps
}

// containerdSteps are those for which containerd must run.
func containerdSteps(o Observed, options Options) []Step {
	steps := slices.Concat(podSteps(o), imageSteps(o, options))
	await := Step{Phase: PhasePods, Action: AwaitContainerd, Target: o.Containerd, Why: "it has the pods"}
	switch {
	case o.Unreachable != "":
		await.Why = "it has not said which pods it has: " + o.Unreachable
	case len(steps) == 0:
		return nil
	}
	return slices.Insert(steps, 0, await)
}

func podSteps(o Observed) []Step {
	var steps []Step
	add := func(a Action, id, target, why string) {
		steps = append(steps, Step{Phase: PhasePods, Action: a, Target: target, Why: why, id: id})
	}
	names, sandboxes := map[types.UID]string{}, map[string]bool{}
	for _, p := range o.Pods {
		names[p.UID] = p.String()
		for _, c := range p.Containers {
			add(RemoveContainer, c.ID, c.Name+" of pod "+p.String(), "containerd has it")
		}
		if p.Sandbox != "" {
			sandboxes[p.Sandbox] = true
			add(RemoveSandbox, string(p.UID), p.String(), "the agent has a record of it")
		}
	}
	nameOf := func(uid types.UID) string { return cmp.Or(names[uid], string(uid)) }
	for _, id := range slices.Sorted(maps.Keys(o.Networks)) {
		if !sandboxes[id] {
			add(ReleaseNetwork, id, id[:min(len(id), 12)], "its record is gone")
		}
	}
	for _, uid := range o.Namespaces {
		if !slices.ContainsFunc(o.Pods, func(p Pod) bool { return p.UID == uid && p.Sandbox != "" }) {
			add(RemoveNamespaces, string(uid), nameOf(uid), "its record is gone")
		}
	}
	for _, uid := range o.Residue {
		if !o.Foreign[uid] {
			add(RemovePod, string(uid), nameOf(uid), "the host has some of these")
		}
	}
	if o.Pump {
		add(StopPump, "", "", "no container is left to log")
	}
	return steps
}

func imageSteps(o Observed, options Options) []Step {
	var steps []Step
	for _, i := range o.Images {
		if options.Images {
			steps = append(steps, Step{Phase: PhaseImages, Action: RemoveImage, Target: i.Name, Why: "--images was given", id: i.ID})
		}
	}
	return steps
}
