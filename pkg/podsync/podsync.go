// Package podsync is a LOOP: it keeps the pods of this node as the sources want them. It owns one
// worker per pod UID, and each step of a worker is
//
//	observe (runtime, host, probes) → podplan.Step (pure) → launch the plan's actions → status.Pod (pure) → sink
//
// Actions run beside the worker, at most one for each Action.Key; their end wakes it. A worker also
// steps when its source, the runtime or the prober wakes it, and at the moment that the plan named.
// The worker alone launches actions; the Executor carries them out, and holds no state.
//
// # A life
//
//	source emits ─► entry ─► admitted ─► running ─► ending ─► stopped ─► done
//	                   └──── refused: Failed ─────────────────────────────┘
//
// A pod that the host has and no source knows gets an entry too. The loop leaves it alone until
// every source has synced, and then ends it. When a plan says Stopped, the worker freezes what it
// has observed and its state, and with them the status. When a plan says Done, the loop hands a pod
// that is being deleted to the sink's Finish; the entry goes when the source says Gone.
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
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/sleep"
)

// Config of a Loop. Fields without a default are required.
type Config struct {
	Sources []Source
	Sink    StatusSink
	Pods    runtime.Pods
	// Executor carries out the actions, and knows what the host holds for a pod.
	Executor *Executor
	Host     Host
	Volumes  Volumes
	Prober   Prober
	Events   Events
	// Messages reads termination messages.
	Messages Messages
	// Admit decides whether a pod that does not run yet may run beside the others; nil admits
	// everything.
	Admit func(pod *corev1.Pod, others []*corev1.Pod) *podspec.Termination
	// Allocatable is what the node's pods may request together; it returns nil while nobody knows.
	// nil: everything fits.
	Allocatable func() corev1.ResourceList
	// HostIPs are the node's addresses, primary first.
	HostIPs func() []netip.Addr
	// SyncFrequency is how often a worker steps without an event; default 1 min.
	SyncFrequency time.Duration
	// RefreshInterval is how often volumes are refreshed whose contents may change; default 1 min.
	RefreshInterval time.Duration
	// RequestTimeout is the limit of every action that has none of its own; default 2 min.
	RequestTimeout time.Duration
	// CrashMax is the longest back-off of a crash loop; default 5 min.
	CrashMax time.Duration
	// OnAction is called for every completed action with its name in metrics; nil: nothing is.
	OnAction func(operation string, took time.Duration, err error)
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
	case len(c.Sources) == 0, c.Sink == nil, c.Pods == nil, c.Executor == nil, c.Host == nil, c.Volumes == nil:
		return nil, errors.New("making the pod loop: Sources, Sink, Pods, Executor, Host and Volumes are required")
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
				log = c.Log.Debug // for every pod; firstList logs it once
			}
			log("Pod step failed", "uid", uid, "err", err)
			l.store.get(uid).fail(err)
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

// Run keeps the pods until ctx ends, and leaves them running. It first lists what the host has, and
// waits for the runtime as long as it takes, so that it reports nothing before.
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
	parts.Go(func() { l.heartbeat(ctx) })
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

// Wake makes a pod's worker step soon.
func (l *Loop) Wake(uid types.UID) {
	if l.store.get(uid) != nil {
		l.workers.Wake(uid)
	}
}

// Renew tells that an object that the pod names has changed, appeared or gone: its worker refreshes
// volumes soon, and tries again what failed because of the object.
func (l *Loop) Renew(uid types.UID, o podspec.ObjectRef) {
	if e := l.store.get(uid); e != nil {
		e.change(o)
		l.workers.Wake(uid)
	}
}

// End ends a pod as Failed: eviction, node shutdown. The first termination stays. It says whether
// the pod was known.
func (l *Loop) End(uid types.UID, o podspec.Termination) bool {
	e := l.store.get(uid)
	if e == nil {
		return false
	}
	e.end(o)
	l.workers.Interrupt(uid)
	return true
}

// LastSeen is the loop's last heartbeat: at a step, or every ten seconds; the health page compares
// it with the clock. Zero before the first one. It has its monotonic reading, so that a clock that
// somebody sets makes no loop seem dead.
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

// heartbeat shows that the loop lives while there is nothing to do. It takes the lock that every
// step takes.
func (l *Loop) heartbeat(ctx context.Context) {
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

// awaitSync waits until every source has synced and then wakes every worker, for the orphans among
// the pods. Sources send no event for it, and it happens once in the agent's life: it asks them ten
// times a second.
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

// firstList lists what the host has; an error means that ctx ended.
func (l *Loop) firstList(ctx context.Context) (<-chan types.UID, error) {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		hints, err := l.relist(ctx)
		if err == nil {
			return hints, nil
		}
		l.config.Log.Warn("Waiting for the container runtime", "err", err)
		if sleep.For(ctx, pause) != nil {
			return nil, ctx.Err()
		}
	}
}

// relist watches the runtime and makes an entry for every pod that the host has. It watches first,
// so that it misses nothing that happens between the two.
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
		return nil, fmt.Errorf("looking for claims of pods: %w", err)
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

// follow wakes the workers of pods that the runtime hints at, and lists again whenever the watch
// ends.
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
