// Package podsync is a LOOP: it keeps the pods of this node as the sources want them. It owns one
// worker per pod UID, and each step of a worker is
//
//	observe (runtime, host, probes) → podplan.Next (pure) → launch the plan's actions → status.Pod (pure) → sink
//
// Actions run beside the worker, at most one for each Action.Key; their end wakes it. A worker is
// also woken by its source, by the runtime, by the prober, and at the moment that the plan named.
// It alone decides that an action is launched; what an action does is in apply.go.
//
// # A life
//
//	source emits ─► entry ─► admitted ─► running ─► ending ─► stopped ─► done
//	                   └──── refused: Failed ─────────────────────────────┘
//
// A pod that the host has and no source knows gets an entry too; it is left alone until every
// source has synced and is then ended. Once a plan says Stopped, what was observed is frozen, and
// with it the status. When a plan says Done, a pod that is being deleted is handed to the sink's
// Finish, and the entry goes when the source says Gone.
package podsync

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/keyed"
	"github.com/nodeagent/nodeagent/pkg/podsync/podplan"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/sleep"
)

// Config of a Loop. Fields without a default are required.
type Config struct {
	Sources []Source
	Sink    StatusSink
	Pods    runtime.Pods
	Apply   Applier
	Host    Host
	Volumes Volumes
	Prober  Prober
	Events  Events
	// Messages reads termination messages.
	Messages Messages
	// Admit decides whether a pod that does not run yet may run beside the others; nil admits
	// everything.
	Admit func(pod *corev1.Pod, others []*corev1.Pod) *podspec.Termination
	// Allocatable is what the node's pods may request together, nil while it is not known; nil:
	// everything fits.
	Allocatable func() corev1.ResourceList
	// HostIPs are the node's addresses, primary first.
	HostIPs func() []netip.Addr
	// SyncFrequency is how often a pod is looked at without an event; default 1 min.
	SyncFrequency time.Duration
	// RefreshInterval is how often volumes whose contents may change are compared; default 1 min.
	RefreshInterval time.Duration
	// RequestTimeout bounds every action that has no longer bound of its own; default 2 min.
	RequestTimeout time.Duration
	// CrashMax is the longest back-off of a crash loop; default 5 min.
	CrashMax time.Duration
	// OnAction is told of every ended action, for metrics; nil: nobody is.
	OnAction func(a podplan.Action, took time.Duration, err error)
	Now      func() time.Time
	Log      *slog.Logger
}

// Loop is the pods pipeline.
type Loop struct {
	config  Config
	workers *keyed.Group[types.UID]
	store   store

	synced atomic.Bool // every source has synced
	// spawn, set by Run, runs a function beside the workers, and returns what cancels it.
	spawn    func(bound time.Duration, f func(context.Context)) context.CancelFunc
	running  sync.WaitGroup
	lastSeen atomic.Pointer[time.Time] // the last completed step or relist, for liveness
}

// New checks the configuration and makes a Loop.
func New(c Config) (*Loop, error) {
	switch {
	case len(c.Sources) == 0, c.Sink == nil, c.Pods == nil, c.Apply == nil, c.Host == nil, c.Volumes == nil:
		return nil, errors.New("making the pod loop: Sources, Sink, Pods, Apply, Host and Volumes are required")
	case c.Prober == nil, c.Events == nil, c.Messages == nil, c.HostIPs == nil, c.Now == nil, c.Log == nil:
		return nil, errors.New("making the pod loop: Prober, Events, Messages, HostIPs, Now and Log are required")
	}
	if c.Admit == nil {
		c.Admit = func(*corev1.Pod, []*corev1.Pod) *podspec.Termination { return nil }
	}
	if c.Allocatable == nil {
		c.Allocatable = func() corev1.ResourceList { return nil }
	}
	c.SyncFrequency = orDefault(c.SyncFrequency, time.Minute)
	c.RefreshInterval = orDefault(c.RefreshInterval, time.Minute)
	c.RequestTimeout = orDefault(c.RequestTimeout, 2*time.Minute)
	l := &Loop{config: c, store: store{entries: make(map[types.UID]*entry)}}
	workers, err := keyed.New(keyed.Config[types.UID]{
		Step: l.step, Now: c.Now, MinPause: 500 * time.Millisecond, MaxPause: 5 * time.Second,
		OnError: func(uid types.UID, err error) {
			log := c.Log.Warn
			if errors.Is(err, runtime.ErrUnavailable) {
				log = c.Log.Debug // it befalls every pod, and is told of once by firstList
			}
			log("pod not looked at", "uid", uid, "error", err)
			l.store.get(uid).fault(err, c.Now())
		},
	})
	if err != nil {
		return nil, fmt.Errorf("making the pod loop: %w", err)
	}
	l.workers = workers
	return l, nil
}

func orDefault(d, fallback time.Duration) time.Duration {
	if d <= 0 {
		return fallback
	}
	return d
}

// Run runs the pods until ctx ends, and leaves the pods running. It first learns what the host has,
// waiting for the runtime as long as it takes, so that nothing is reported before.
func (l *Loop) Run(ctx context.Context) error {
	hints, err := l.firstList(ctx)
	if err != nil {
		return nil // only cancellation ends it
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l.spawn = func(bound time.Duration, f func(context.Context)) context.CancelFunc {
		bounded, cancel := context.WithTimeout(ctx, bound)
		l.running.Go(func() {
			defer cancel()
			f(bounded)
		})
		return cancel
	}

	failed := make(chan error, len(l.config.Sources))
	var parts sync.WaitGroup
	for _, s := range l.config.Sources {
		parts.Go(func() {
			if err := s.Run(ctx, l.emit); err != nil && ctx.Err() == nil {
				failed <- err
			}
		})
	}
	parts.Go(func() { l.awaitSync(ctx) })
	parts.Go(func() { l.beat(ctx) })
	parts.Go(func() { l.follow(ctx, hints) })
	parts.Go(func() { _ = l.workers.Run(ctx) })

	select {
	case <-ctx.Done():
		err = nil
	case err = <-failed:
		err = fmt.Errorf("running a pod source: %w", err)
	}
	cancel()
	parts.Wait()
	l.running.Wait()
	return err
}

// Wake has a pod looked at soon.
func (l *Loop) Wake(uid types.UID) {
	if l.store.get(uid) != nil {
		l.workers.Wake(uid)
	}
}

// Renew tells that an object that the pod names has changed, appeared or gone: soon the contents of
// its volumes are compared, and what failed for want of the object is tried again.
func (l *Loop) Renew(uid types.UID, o podspec.ObjectRef) {
	if e := l.store.get(uid); e != nil {
		e.renewed(o)
		l.workers.Wake(uid)
	}
}

// End ends a pod as Failed: eviction, node shutdown. The first outcome stays. It says whether the
// pod was known.
func (l *Loop) End(uid types.UID, o podspec.Termination) bool {
	e := l.store.get(uid)
	if e == nil {
		return false
	}
	e.end(o)
	l.workers.Interrupt(uid)
	return true
}

// LastSeen is when the loop last showed that it lives: at a step, or every ten seconds; the health
// page compares it with the clock. Zero before the first time. It has its monotonic reading, so
// that a clock that is set makes no loop look silent.
func (l *Loop) LastSeen() time.Time {
	if at := l.lastSeen.Load(); at != nil {
		return *at
	}
	return time.Time{}
}

func (l *Loop) alive() {
	now := l.config.Now()
	l.lastSeen.Store(&now)
}

// beat shows that the loop lives while there is nothing to do. It takes the lock that everything
// passes.
func (l *Loop) beat(ctx context.Context) {
	for sleep.For(ctx, 10*time.Second) == nil {
		l.store.uids()
		l.alive()
	}
}

// emit takes a source's update.
func (l *Loop) emit(u podspec.Update) {
	interrupt := l.store.put(u)
	if interrupt {
		l.workers.Interrupt(u.UID)
		return
	}
	l.workers.Wake(u.UID)
}

// awaitSync waits until every source has synced and then has every pod looked at, for the orphans
// among them. Sources tell of it by no event, and it happens once in the agent's life: so it is
// asked for, ten times a second.
func (l *Loop) awaitSync(ctx context.Context) {
	for !l.allSynced() {
		if sleep.For(ctx, 100*time.Millisecond) != nil {
			return
		}
	}
	l.synced.Store(true)
	l.wakeAll()
}

func (l *Loop) allSynced() bool {
	for _, s := range l.config.Sources {
		if !s.Synced() {
			return false
		}
	}
	return true
}

func (l *Loop) wakeAll() {
	for _, uid := range l.store.uids() {
		l.workers.Wake(uid)
	}
}

// firstList learns what the host has; an error means that ctx ended.
func (l *Loop) firstList(ctx context.Context) (<-chan types.UID, error) {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		hints, err := l.relist(ctx)
		if err == nil {
			return hints, nil
		}
		l.config.Log.Warn("waiting for the container runtime", "error", err)
		if sleep.For(ctx, pause) != nil {
			return nil, ctx.Err()
		}
	}
}

// relist watches the runtime and makes an entry for every pod that the host has. The watch comes
// first, so that nothing that happens between the two is missed.
func (l *Loop) relist(ctx context.Context) (<-chan types.UID, error) {
	hints, err := l.config.Pods.Watch(ctx)
	if err != nil {
		return nil, fmt.Errorf("watching the runtime: %w", err)
	}
	pods, err := l.config.Pods.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing the runtime's pods: %w", err)
	}
	left, err := l.config.Host.Leftovers(ctx)
	if err != nil {
		return nil, fmt.Errorf("looking for what is left of pods: %w", err)
	}
	for _, p := range pods {
		l.store.found(p.PodRef)
	}
	for _, uid := range left {
		l.store.found(runtime.PodRef{UID: uid})
	}
	l.alive()
	return hints, nil
}

// follow turns the runtime's hints into wakes, and lists again whenever the watch ends.
func (l *Loop) follow(ctx context.Context, hints <-chan types.UID) {
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return
		case uid, open := <-hints:
			if open {
				l.store.found(runtime.PodRef{UID: uid})
				l.workers.Wake(uid)
				continue
			}
		}
		var err error
		if hints, err = l.firstList(ctx); err != nil {
			return
		}
		l.wakeAll()
	}
}
