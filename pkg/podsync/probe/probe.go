// Package probe is EDGE: it runs the startup, liveness and readiness probes of running containers,
// and keeps their results. The planner decides what a failed probe means for the container.
//
// # A life
//
// When Sync first sees a container run, it makes one worker for each of its probes. A worker waits
// until the startup probe has succeeded (unless it is the startup probe), then for
// initialDelaySeconds, and then checks every periodSeconds. The result changes when as many checks
// in a row agree as the threshold says. A startup probe ends with its first result; a liveness
// probe ends with its first failure, since a new container follows. When the pod is deleted,
// startup and liveness probes end at once; readiness goes on until the container stops, so that
// traffic moves away in time.
package probe

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// Execer runs a process in a container; see runtime.Streams.
type Execer interface {
	Exec(ctx context.Context, containerID string, x runtime.ExecConfig) (exitCode int, err error)
}

// Events is the one method of client-go's EventRecorder that is used here.
type Events interface {
	Event(object kruntime.Object, eventType, reason, message string)
}

// Config of a Prober. Fields without a default are required.
type Config struct {
	Exec   Execer
	Events Events
	// Wake is called when a result of the pod changed.
	Wake func(uid types.UID)
	// HostIP is the address on which pods in the host's network listen.
	HostIP func() string
	// Metrics counts checks; nil: nothing is counted.
	Metrics *Metrics
	Now     func() time.Time
	// Random returns a number from 0 to 1. After a restart of the agent, a probe first waits for
	// this share of its period.
	Random func() float64
	Log    *slog.Logger
}

// Kind of a probe, as events and metrics write it.
type Kind string

// The three kinds.
const (
	Startup   Kind = "Startup"
	Liveness  Kind = "Liveness"
	Readiness Kind = "Readiness"
)

// Prober runs probes.
type Prober struct {
	config Config
	check  checker
	began  time.Time

	mu         sync.Mutex
	containers map[string]*container
	pods       map[types.UID]runtime.PodRef // those with probes, until Forget
	spawn      func(*worker)                // nil before Run
	running    sync.WaitGroup
}

// container is one running container. The prober's mutex guards it.
type container struct {
	pod     types.UID
	results podspec.Probes
	workers map[Kind]*worker
	started chan struct{} // closed when the startup probe has succeeded
}

// New checks the configuration.
func New(c Config) (*Prober, error) {
	if c.Exec == nil || c.Events == nil || c.Wake == nil || c.HostIP == nil || c.Now == nil || c.Random == nil || c.Log == nil {
		return nil, errors.New("making the prober: Exec, Events, Wake, HostIP, Now, Random and Log are required")
	}
	return &Prober{
		config: c, check: newChecker(c.Exec), began: c.Now(), containers: make(map[string]*container),
		pods: make(map[types.UID]runtime.PodRef),
	}, nil
}

// Run runs the probes until ctx ends.
func (p *Prober) Run(ctx context.Context) error {
	p.mu.Lock()
	p.spawn = func(w *worker) {
		bounded, cancel := context.WithCancel(ctx)
		w.cancel = cancel
		p.running.Go(func() {
			defer cancel()
			w.run(bounded)
		})
	}
	for _, c := range p.containers {
		for _, w := range c.workers {
			p.spawn(w)
		}
	}
	p.mu.Unlock()
	<-ctx.Done()
	p.mu.Lock()
	p.spawn = func(*worker) {}
	p.mu.Unlock()
	p.running.Wait()
	return nil
}

// Results are the newest results of a container; the zero value when no probe has one.
func (p *Prober) Results(containerID string) podspec.Probes {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.containers[containerID]; c != nil {
		return c.results
	}
	return podspec.Probes{}
}

// Forget ends all probes of a pod, and drops their metrics.
func (p *Prober) Forget(uid types.UID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if ref, seen := p.pods[uid]; seen {
		p.config.Metrics.forget(ref)
		delete(p.pods, uid)
	}
	for id, c := range p.containers {
		if c.pod == uid {
			c.end()
			delete(p.containers, id)
		}
	}
}

// Sync starts the probes of containers that run and ends those of containers that no longer do.
// pod.Status is what was reported to the API server: the startup probe of a container that was
// reported as started does not run again.
func (p *Prober) Sync(pod *corev1.Pod, have runtime.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	alive := make(map[string]bool)
	for role, spec := range podspec.Containers(pod) {
		if !role.Serves() {
			continue
		}
		c := have.Latest(spec.Name)
		if c == nil || c.State != runtime.Running {
			continue
		}
		alive[c.ID] = true
		if p.containers[c.ID] == nil {
			p.begin(pod, spec, c, p.address(pod, have))
		}
		if pod.DeletionTimestamp != nil {
			p.containers[c.ID].endKinds(Startup, Liveness)
		}
	}
	for id, c := range p.containers {
		if c.pod == pod.UID && !alive[id] {
			c.end()
			delete(p.containers, id)
		}
	}
}

// address is the address on which the pod's containers listen; "" when it is not known.
func (p *Prober) address(pod *corev1.Pod, have runtime.Pod) string {
	if pod.Spec.HostNetwork {
		return p.config.HostIP()
	}
	if have.Sandbox == nil || len(have.Sandbox.IPs) == 0 {
		return ""
	}
	return have.Sandbox.IPs[0].String()
}

// begin makes the workers of a container. p.mu is held.
func (p *Prober) begin(pod *corev1.Pod, spec *corev1.Container, c *runtime.Container, address string) {
	entry := &container{pod: pod.UID, workers: make(map[Kind]*worker), started: make(chan struct{})}
	p.containers[c.ID] = entry
	p.pods[pod.UID] = runtime.RefOf(pod)
	specs := map[Kind]*corev1.Probe{Startup: spec.StartupProbe, Liveness: spec.LivenessProbe, Readiness: spec.ReadinessProbe}
	if spec.StartupProbe == nil || wasStarted(pod, c.ID) {
		specs[Startup] = nil
		close(entry.started)
		if spec.StartupProbe != nil {
			entry.results.Startup = podspec.ProbeSuccess
		}
	}
	for kind, probe := range specs {
		if probe == nil {
			continue
		}
		w := &worker{
			prober: p, kind: kind, spec: probe, pod: pod, container: spec, id: c.ID,
			began: podspec.OwnMoment(c.StartedAt, p.config.Now()), address: address,
			started: entry.started, cancel: func() {}, process: make(chan struct{}, 1),
		}
		entry.workers[kind] = w
		if p.spawn != nil {
			p.spawn(w)
		}
	}
}

// wasStarted reports whether the status says that this very attempt has started.
func wasStarted(pod *corev1.Pod, id string) bool {
	for s := range podspec.Statuses(&pod.Status) {
		if s.ContainerID == podspec.StatusID(id) && s.Started != nil && *s.Started {
			return true
		}
	}
	return false
}

// end ends all workers. The prober's mutex is held.
func (c *container) end() { c.endKinds(Startup, Liveness, Readiness) }

func (c *container) endKinds(kinds ...Kind) {
	for _, kind := range kinds {
		if w := c.workers[kind]; w != nil {
			w.cancel()
		}
	}
}

// set keeps a worker's result, and logs it and wakes the pod when it changed.
func (p *Prober) set(w *worker, r podspec.ProbeResult, message string) {
	p.mu.Lock()
	c := p.containers[w.id]
	if c == nil || c.workers[w.kind] != w {
		p.mu.Unlock()
		return
	}
	var field *podspec.ProbeResult
	switch w.kind {
	case Startup:
		field = &c.results.Startup
	case Liveness:
		field = &c.results.Liveness
	case Readiness:
		field = &c.results.Readiness
	}
	changed := *field != r
	*field = r
	if r == podspec.ProbeFailure && w.kind != Readiness {
		c.results.Message, c.results.Grace = message, w.spec.TerminationGracePeriodSeconds
	}
	if changed && w.kind == Startup && r == podspec.ProbeSuccess {
		close(c.started)
	}
	p.mu.Unlock()
	if changed {
		p.config.Log.Info("Probe result changed", "pod", podspec.Key(w.pod), "container", w.container.Name,
			"probe", w.kind, "result", r, "message", message)
		p.config.Wake(w.pod.UID)
	}
}
