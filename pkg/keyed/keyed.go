// Package keyed is a LOOP: it runs one goroutine per key, which calls the same step again and
// again: when the key is woken, at the time that the last step named, and after a growing pause
// when the step failed. It knows nothing about the keys.
//
// # A life
//
// The first Wake of a key starts its worker. Wakes that arrive during a step are merged into one
// more step, so that every wake is followed by a step that began after it. A step that returns Done
// ends the worker, unless a wake came meanwhile; a later Wake starts a new one. Steps of one key
// never run concurrently; steps of different keys may.
package keyed

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"
)

// Next says when to call the step again without a wake; the zero value: never. Done ends the key's
// worker.
type Next struct {
	At   time.Time
	Done bool
}

// Step does the work of one key once. After an error it is called again after a pause, and Next is
// ignored.
type Step[K comparable] func(ctx context.Context, key K) (Next, error)

// Config configures a Group.
type Config[K comparable] struct {
	Step Step[K]
	// Now is the clock; required.
	Now func() time.Time
	// MinPause and MaxPause bound the pause after an error, which doubles with every consecutive
	// error; default 1 s and 1 min. Each pause is randomly shortened by up to half.
	MinPause, MaxPause time.Duration
	// OnError, if not nil, is called with every error of a step except cancellation.
	OnError func(key K, err error)
}

// Group runs the workers of many keys.
type Group[K comparable] struct {
	config Config[K]

	mu      sync.Mutex
	workers map[K]*worker
	spawn   func(key K, w *worker) // nil unless Run is running
	ended   bool
	running sync.WaitGroup
}

// worker is the state of one key. The group's mutex guards all of it but wake.
type worker struct {
	wake   chan struct{} // capacity 1
	cancel context.CancelFunc
}

// New returns a group without workers.
func New[K comparable](c Config[K]) (*Group[K], error) {
	if c.Step == nil || c.Now == nil {
		return nil, errors.New("making a keyed group: Step and Now are required")
	}
	if c.MinPause <= 0 {
		c.MinPause = time.Second
	}
	if c.MaxPause < c.MinPause {
		c.MaxPause = max(time.Minute, c.MinPause)
	}
	return &Group[K]{config: c, workers: make(map[K]*worker)}, nil
}

// Wake makes the key's step run soon. Before Run it is remembered; after Run it does nothing.
func (g *Group[K]) Wake(key K) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.wakeLocked(key)
}

// Interrupt cancels the key's running step, if any, and wakes the key.
func (g *Group[K]) Interrupt(key K) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if w := g.wakeLocked(key); w != nil && w.cancel != nil {
		w.cancel()
	}
}

// Len is the number of keys that have a worker.
func (g *Group[K]) Len() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.workers)
}

func (g *Group[K]) wakeLocked(key K) *worker {
	if g.ended {
		return nil
	}
	w := g.workers[key]
	if w == nil {
		w = &worker{wake: make(chan struct{}, 1)}
		g.workers[key] = w
		if g.spawn != nil {
			g.spawn(key, w)
		}
	}
	select {
	case w.wake <- struct{}{}:
	default: // a wake is pending already
	}
	return w
}

// Run runs the workers until ctx ends, and returns nil when the last one has returned. It can be
// called only once.
func (g *Group[K]) Run(ctx context.Context) error {
	g.mu.Lock()
	if g.spawn != nil || g.ended {
		g.mu.Unlock()
		return errors.New("running a keyed group: Run was called before")
	}
	g.spawn = func(key K, w *worker) {
		g.running.Go(func() { g.work(ctx, key, w) })
	}
	for key, w := range g.workers {
		g.spawn(key, w)
	}
	g.mu.Unlock()

	<-ctx.Done()
	g.mu.Lock()
	g.ended = true
	g.mu.Unlock()
	g.running.Wait()
	return nil
}

// work runs one worker.
func (g *Group[K]) work(ctx context.Context, key K, w *worker) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	stopped := true
	timer.Stop()
	pause := g.config.MinPause
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		case <-timer.C:
			stopped = true
		}
		next, err := g.step(ctx, key, w)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			// Up to half of the pause is random, so that keys that failed together are not retried
			// together.
			next = Next{At: g.config.Now().Add(pause - rand.N(pause/2+1))}
			pause = min(2*pause, g.config.MaxPause)
		default:
			pause = g.config.MinPause
		}
		if next.Done && g.end(key, w) {
			return
		}
		if !stopped {
			timer.Stop()
			stopped = true
		}
		if !next.At.IsZero() {
			timer.Reset(max(0, next.At.Sub(g.config.Now())))
			stopped = false
		}
	}
}

// step calls the step once, in a way that Interrupt can cancel.
func (g *Group[K]) step(ctx context.Context, key K, w *worker) (Next, error) {
	stepCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	g.mu.Lock()
	w.cancel = cancel
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		w.cancel = nil
		g.mu.Unlock()
	}()
	next, err := g.config.Step(stepCtx, key)
	if err == nil {
		return next, nil
	}
	if stepCtx.Err() != nil {
		return Next{}, nil // interrupted: a wake is pending
	}
	if g.config.OnError != nil {
		g.config.OnError(key, err)
	}
	return Next{}, err
}

// end removes a worker, unless it was woken meanwhile.
func (g *Group[K]) end(key K, w *worker) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(w.wake) > 0 {
		return false
	}
	delete(g.workers, key)
	return true
}
