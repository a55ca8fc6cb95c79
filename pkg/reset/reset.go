package reset

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/sleep"
)

// Daemon is the agent under the machine's service manager.
type Daemon interface {
	// Running reports whether it runs and whether it starts at boot. One that is not installed, or
	// a machine without service manager, is no error.
	Running(ctx context.Context) (active, enabled bool, err error)
	// Stop stops the unit and keeps it from starting at boot.
	Stop(ctx context.Context) error
}

// Records tells what containerd and the agent's records hold. It changes nothing, and needs no
// Remover to run.
type Records interface {
	// Inventory lists pods with a sandbox or a container.
	Inventory(ctx context.Context) ([]runtime.Pod, error)
	// Foreign are the pods of containerd's CRI plugin.
	Foreign(ctx context.Context) (map[types.UID]bool, error)
	Images(ctx context.Context) ([]runtime.Image, error)
}

// Remover removes from containerd, while Run runs.
type Remover interface {
	Run(ctx context.Context) error
	// Ready is nil when the others can be called.
	Ready(ctx context.Context) error
	RemoveContainer(ctx context.Context, id string) error
	RemoveSandbox(ctx context.Context, uid types.UID) error
	RemoveImage(ctx context.Context, id string) error
}

// Network is what sandboxes have of the pod network.
type Network interface {
	// Attached are sandboxes by id, with the path of their namespace below a folder.
	Attached(below string) (map[string]string, error)
	Release(ctx context.Context, netns, id string) error
}

// Pods is what pods have on the host beside containers and sandbox.
type Pods interface {
	// Residue lists the pods of which there is anything.
	Residue(ctx context.Context) ([]types.UID, error)
	// Remove removes volumes, cgroup, folder and logs of a pod.
	Remove(ctx context.Context, uid types.UID) error
}

// Pump is the log pump.
type Pump interface {
	Stop(ctx context.Context) (was bool, err error)
}

// Rules are what one proxy mode has in the kernel.
type Rules struct {
	What   string // such as "Service rules (IPv4, iptables v1.8.9 (nf_tables))"
	Remove func(ctx context.Context) error
}

// Cgroup is the group of all pods, by one cgroup driver.
type Cgroup interface {
	String() string
	Exists() bool
	// Remove removes it with the groups of pods in it that are neither another agent's nor in keep.
	// A nil keep keeps all pods' groups. It reports whether it removed anything.
	Remove(ctx context.Context, keep map[types.UID]bool) (bool, error)
}

// Config of a Resetter. All fields but Options are required.
type Config struct {
	Options Options
	Places  Places
	// Unit is the name of Daemon's.
	Unit   string
	Daemon Daemon
	// Answers reports whether an agent listens at Places.StatusSocket.
	Answers func(ctx context.Context) bool
	// Containerd is its address; Records and Remover ask it.
	Containerd string
	Records    Records
	Remover    Remover
	Network    Network
	Pods       Pods
	Pump       Pump
	// Rules finds what any proxy mode has in the kernel, in the order in which it can be removed.
	// With an error it returns those that it found.
	Rules   func(ctx context.Context) ([]Rules, error)
	Cgroups []Cgroup
	// Patience bounds the wait for containerd; 0: 15 s.
	Patience time.Duration
	Now      func() time.Time
	// Report is told of each step as it ends.
	Report func(Event)
}

// State is how a step ended.
type State string

// The states.
const (
	Done   State = "ok"
	Failed State = "failed"
	// Kept: the step was not taken, since pods could not be removed. Their records stay.
	Kept State = "kept"
)

// Event is the end of one step.
type Event struct {
	Step  Step
	State State
	Took  time.Duration
}

// Resetter takes the agent off this machine.
type Resetter struct{ c Config }

// New checks the configuration and touches nothing.
func New(c Config) (*Resetter, error) {
	if c.Daemon == nil || c.Answers == nil || c.Records == nil || c.Remover == nil || c.Network == nil || c.Pods == nil || c.Pump == nil ||
		c.Rules == nil || c.Now == nil || c.Report == nil {
		return nil, errors.New("making a resetter: a field is missing")
	}
	if c.Patience == 0 {
		c.Patience = 15 * time.Second
	}
	return &Resetter{c}, nil
}

// Plan returns the steps that Run would take. It changes nothing.
func (r *Resetter) Plan(ctx context.Context) ([]Step, error) {
	o, err := r.observe(ctx)
	return Plan(o, r.c.Options), err
}

// Run takes the agent off. A step that fails does not keep others from being taken, but for two: an
// agent that goes on running ends the reset, and while pods cannot be removed only the Service
// rules are, for the rest tells what is still to undo. Run returns the errors of all steps; called
// again, it goes on with what is left. did reports whether anything was removed.
func (r *Resetter) Run(ctx context.Context) (did bool, err error) {
	w := &work{Resetter: r}
	defer func() { did, err = w.did, errors.Join(err, w.stop()) }()
	if err := w.stopDaemon(ctx); err != nil {
		return false, err
	}
	var all error
	for len(w.steps) > 0 {
		s := w.steps[0]
		w.steps = w.steps[1:]
		all = errors.Join(all, w.next(ctx, s))
	}
	return false, all
}

// work is one Run.
type work struct {
	*Resetter
	observed Observed
	steps    []Step // not yet taken
	did      bool
	kept     bool // pods could not be removed
	end      func() error
}

// stopDaemon takes the steps of PhaseDaemon, and plans the others.
func (w *work) stopDaemon(ctx context.Context) error {
	if err := w.plan(ctx); err != nil {
		return err
	}
	stopping := w.take(PhaseDaemon)
	for _, s := range stopping {
		if err := w.step(ctx, s); err != nil {
			return err
		}
	}
	if len(stopping) == 0 {
		return nil
	}
	return w.plan(ctx) // the agent may have changed what there is
}

// next takes one step, or keeps what it would remove.
func (w *work) next(ctx context.Context, s Step) error {
	if w.kept && s.Phase != PhasePods && s.Phase != PhaseRules {
		if !s.Maybe {
			w.c.Report(Event{Step: s, State: Kept})
		}
		return nil
	}
	if err := w.step(ctx, s); err != nil {
		w.kept = w.kept || s.Phase == PhasePods
		if s.Action == AwaitContainerd {
			w.drop(PhasePods, PhaseImages)
		}
		return err
	}
	if s.Action != AwaitContainerd || w.observed.Unreachable == "" {
		return nil
	}
	// now containerd can say which pods it has
	if err := w.plan(ctx); err != nil {
		w.kept = true
		return err
	}
	w.drop(PhaseDaemon)
	if w.observed.Unreachable != "" { // it answers, but not this question: waiting on does not help
		w.kept = true
		w.drop(PhasePods, PhaseImages)
		return fmt.Errorf("removing pods: containerd answers but has not said which pods it has: %s", w.observed.Unreachable)
	}
	return nil
}

func (w *work) plan(ctx context.Context) error {
	o, err := w.observe(ctx)
	if err != nil {
		return err
	}
	w.observed, w.steps = o, Plan(o, w.c.Options)
	return nil
}

// take removes the steps of a phase from those that are left.
func (w *work) take(p Phase) []Step {
	var taken, left []Step
	for _, s := range w.steps {
		if s.Phase == p {
			taken = append(taken, s)
		} else {
			left = append(left, s)
		}
	}
	w.steps = left
	return taken
}

func (w *work) drop(phases ...Phase) {
	for _, p := range phases {
		w.take(p)
	}
}

func (w *work) step(ctx context.Context, s Step) error {
	began := w.c.Now()
	did, err := w.do(ctx, s)
	took := w.c.Now().Sub(began)
	switch {
	case err != nil:
		w.c.Report(Event{s, Failed, took})
	case did:
		w.did = w.did || s.Action != CheckStopped && s.Action != AwaitContainerd
		w.c.Report(Event{s, Done, took})
	}
	return err
}

// do reports whether there was anything to do.
func (w *work) do(ctx context.Context, s Step) (did bool, err error) {
	c := w.c
	always := func(err error) (bool, error) { return err == nil, err }
	do, ok := map[Action]func() (bool, error){
		StopDaemon:       func() (bool, error) { return always(c.Daemon.Stop(ctx)) },
		CheckStopped:     func() (bool, error) { return always(w.checkStopped(ctx)) },
		AwaitContainerd:  func() (bool, error) { return always(w.start(ctx)) },
		RemoveContainer:  func() (bool, error) { return always(c.Remover.RemoveContainer(ctx, s.id)) },
		RemoveSandbox:    func() (bool, error) { return always(c.Remover.RemoveSandbox(ctx, types.UID(s.id))) },
		ReleaseNetwork:   func() (bool, error) { return always(c.Network.Release(ctx, w.observed.Networks[s.id], s.id)) },
		RemoveNamespaces: func() (bool, error) { return always(c.Remover.RemoveSandbox(ctx, types.UID(s.id))) },
		RemovePod:        func() (bool, error) { return always(c.Pods.Remove(ctx, types.UID(s.id))) },
		StopPump:         func() (bool, error) { return c.Pump.Stop(ctx) },
		RemoveImage:      func() (bool, error) { return always(c.Remover.RemoveImage(ctx, s.id)) },
		RemoveRules:      func() (bool, error) { return always(w.removeRules(ctx, s.Target)) },
		FindRules:        func() (bool, error) { return w.removeFoundRules(ctx) },
		RemoveCgroup:     func() (bool, error) { return w.removeCgroup(ctx, s.Target) },
		RemoveFile:       func() (bool, error) { return always(removeFile(s.Target)) },
		RemoveFolder:     func() (bool, error) { return always(removeFolder(s.Target)) },
		RemoveEmpty: func() (bool, error) {
			if !w.did {
				return false, nil
			}
			return removeEmpty(s.Target)
		},
	}[s.Action]
	if !ok {
		return false, fmt.Errorf("carrying out step %q: unknown action", s.Action)
	}
	return do()
}

func (w *work) checkStopped(ctx context.Context) error {
	if !w.c.Answers(ctx) {
		return nil
	}
	return fmt.Errorf("resetting: an agent still runs here (it answers at %s): stop it first (its process, or its unit: systemctl stop kubelet)",
		w.c.Places.StatusSocket)
}

// start runs the Remover, until stop, and waits until it is ready.
func (w *work) start(ctx context.Context) error {
	if w.end == nil {
		running, cancel := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- w.c.Remover.Run(running) }()
		w.end = func() error {
			cancel()
			return <-ended
		}
	}
	wait, cancel := context.WithTimeout(ctx, w.c.Patience)
	defer cancel()
	for {
		err := w.c.Remover.Ready(wait)
		if err == nil {
			return nil
		}
		if sleep.For(wait, 50*time.Millisecond) != nil {
			return fmt.Errorf("removing pods: %w; start containerd (systemctl start containerd) and run this again", err)
		}
	}
}

func (w *work) stop() error {
	if w.end == nil {
		return nil
	}
	return w.end()
}

// removeRules finds them again: their remover is a value of this moment.
func (w *work) removeRules(ctx context.Context, what string) error {
	found, err := w.c.Rules(ctx)
	for _, r := range found {
		if r.What == what {
			return r.Remove(ctx)
		}
	}
	return err
}

// removeFoundRules looks again for rules, for a plan that could not look for all of them, and
// removes what it finds.
func (w *work) removeFoundRules(ctx context.Context) (did bool, err error) {
	found, err := w.c.Rules(ctx)
	for _, r := range found {
		err = errors.Join(err, r.Remove(ctx))
	}
	return len(found) > 0, err
}

func (w *work) removeCgroup(ctx context.Context, name string) (bool, error) {
	for _, c := range w.c.Cgroups {
		if c.String() == name {
			return c.Remove(ctx, w.observed.Foreign)
		}
	}
	return false, fmt.Errorf("removing cgroup %q: nobody knows how", name)
}
