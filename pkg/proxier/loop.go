package proxier

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

const (
	// firstRetry and lastRetry bound the wait after an error; it doubles.
	firstRetry = 100 * time.Millisecond
	lastRetry  = 30 * time.Second
	// restFactor times the duration of a sync passes before the next, up to MinInterval: short
	// syncs follow each other soon, long ones gather more changes.
	restFactor = 10
	// checkFactor is the same for checks: reading back many rules takes as long as writing them.
	checkFactor = 100
	// quickCheckInterval is how soon the loop sees that another program has written.
	quickCheckInterval = time.Second
	// idleAfter is how long after a sync, without another, Idle is called.
	idleAfter = 2 * time.Second
)

// Config is what a Loop is made of.
type Config struct {
	Family  corev1.IPFamily
	Tracker *Tracker
	Backend Backend
	// NodePorts limit the addresses on which node ports answer.
	NodePorts snapshot.NodePortAddresses
	// Others leave once Backend has synced.
	Others []Leaver
	// Observers are called, one after the other, after each sync.
	Observers []Observer
	// MinInterval is the longest time that changes are gathered; a change
	// after quiet is not held back. KubeProxyConfiguration minSyncPeriod.
	MinInterval time.Duration
	// CheckInterval is how often Backend.Check is called, and Observers that failed are called
	// again; 0: never. KubeProxyConfiguration syncPeriod.
	CheckInterval time.Duration
	// Idle, if not nil, is called when no sync has followed another for a while, to give back the
	// memory that syncs took.
	Idle    func()
	Health  *Health
	Metrics *Metrics
	Log     *slog.Logger
	// Now is the clock.
	Now func() time.Time
}

// Loop syncs one family. Its life: Run waits until the Tracker is ready, syncs, and then sleeps
// until something changes, a retry is due, the backend wants to be woken, or it is time for a
// check. At most one sync runs at a time.
type Loop struct {
	c       Config
	quick   QuickChecker // nil: the backend is none
	waker   Waker        // nil: the backend is none
	builder *snapshot.Builder
	timers  timers

	seen  []*snapshot.Snapshot // by observer: the last one it accepted
	last  *snapshot.Snapshot   // the last one in the kernel
	retry time.Duration        // until the next try; 0: the last sync succeeded
	rest  time.Duration        // to leave between the last sync and the next
	ended time.Time            // of the last sync
	took  time.Duration        // the last sync

	unready   int             // Tracker.unreadyMarks at the last sync
	counted   counts          // changes that the metrics have
	checked   time.Time       // end of the last check
	effort    time.Duration   // of that check
	leftOut   map[string]bool // objects that the backend left out
	whole     bool            // the next sync writes everything, after a failure or to repair rules
	firstDone chan struct{}   // closed after the first sync
}

// timers are what a Loop sleeps by.
type timers struct{ sync, check, quick, idle, wake *time.Timer }

func (t timers) stop() {
	for _, timer := range []*time.Timer{t.sync, t.check, t.quick, t.idle, t.wake} {
		timer.Stop()
	}
}

// New checks the configuration; it does nothing yet.
func New(c Config) (*Loop, error) {
	if c.Tracker == nil || c.Backend == nil || c.Log == nil || c.Now == nil || c.Health == nil || c.Metrics == nil {
		return nil, errors.New("making the services loop: Tracker, Backend, Health, Metrics, Log and Now are needed")
	}
	if c.Family != corev1.IPv4Protocol && c.Family != corev1.IPv6Protocol {
		return nil, errors.New("making the services loop: Family must be IPv4 or IPv6")
	}
	if c.Idle == nil {
		c.Idle = func() {}
	}
	l := &Loop{
		c: c, builder: snapshot.NewBuilder(c.Family, c.NodePorts), seen: make([]*snapshot.Snapshot, len(c.Observers)),
		firstDone: make(chan struct{}),
	}
	l.quick, _ = c.Backend.(QuickChecker)
	l.waker, _ = c.Backend.(Waker)
	return l, nil
}

// Run blocks until ctx is done, and returns nil then. What is in the kernel
// stays: connections go on while nobody watches.
func (l *Loop) Run(ctx context.Context) error {
	l.c.Health.expect(l.c.Family)
	dirty := l.c.Tracker.subscribe()
	defer l.c.Tracker.unsubscribe(dirty)
	var leaving sync.WaitGroup
	leaving.Go(func() { l.leave(ctx) })
	defer leaving.Wait()
	l.timers = timers{
		sync: newTimer(0), check: newTimer(l.c.CheckInterval), quick: newTimer(l.quickInterval()), idle: newTimer(0), wake: newTimer(0),
	}
	defer l.timers.stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-dirty:
			if l.c.Tracker.Ready() {
				l.queue()
				if l.retry == 0 {
					l.timers.sync.Reset(l.wait())
				}
			}
		case <-l.timers.sync.C:
			l.sync(ctx)
		case <-l.timers.wake.C:
			l.sync(ctx)
		case <-l.timers.idle.C:
			l.c.Idle()
		case <-l.timers.check.C:
			if l.check(ctx) {
				l.repair()
			}
			l.timers.check.Reset(max(l.c.CheckInterval, checkFactor*l.effort))
		case <-l.timers.quick.C:
			l.quickCheck(ctx)
			l.timers.quick.Reset(l.quickInterval())
		}
	}
	return nil
}

// newTimer never fires if d is 0.
func newTimer(d time.Duration) *time.Timer {
	t := time.NewTimer(d)
	if d <= 0 {
		t.Stop()
	}
	return t
}

func (l *Loop) quickInterval() time.Duration {
	if l.quick == nil {
		return 0
	}
	return min(l.c.CheckInterval, quickCheckInterval)
}

// wait is how long to gather before the next sync. While rules lead to a pod of this node that has
// become unready, it is no longer than a sync takes: the pod may be gone soon.
func (l *Loop) wait() time.Duration {
	rest := l.rest
	if l.c.Tracker.unreadyMarks() != l.unready {
		rest = min(rest, l.took)
	}
	return max(0, rest-l.c.Now().Sub(l.ended))
}

// queue notes that a sync is due: its delay counts from now on.
func (l *Loop) queue() {
	now := l.c.Now()
	l.c.Health.queued(l.c.Family, now)
	l.c.Metrics.queued(l.c.Family, now, l.c.Tracker.total().minus(l.counted))
}

// repair has everything written at once, since the kernel is not as it should be.
func (l *Loop) repair() {
	l.whole = true
	l.queue()
	l.timers.sync.Reset(0)
}

// sync programs the newest snapshot and sets the timers for what follows.
func (l *Loop) sync(ctx context.Context) {
	begin := l.c.Now()
	changes := l.c.Tracker.total()
	l.unready = l.c.Tracker.unreadyMarks()
	snap := l.builder.Build(l.c.Tracker.objects())
	err := l.c.Backend.Sync(ctx, snap)
	l.ended = l.c.Now()
	l.took = l.ended.Sub(begin)
	l.rest = min(l.c.MinInterval, restFactor*l.took)
	l.timers.idle.Reset(idleAfter)
	var left *snapshot.LeftOutError
	if err != nil && !errors.As(err, &left) {
		l.failed(ctx, begin, err)
		return
	}
	l.retry = 0
	l.report(snap, done{begin: begin, took: l.took, changes: changes.minus(l.counted), full: l.last == nil || l.whole})
	l.counted, l.whole = changes, false
	l.reportLeftOut(left)
	if l.last == nil {
		l.c.Log.Info("Programmed all Services", "family", l.c.Family, "services", len(snap.Services), "endpoints", snap.EndpointCount(), "took", l.took)
		close(l.firstDone)
	}
	l.last = snap
	l.observe(ctx)
	l.wake()
}

// failed has the sync tried again.
func (l *Loop) failed(ctx context.Context, begin time.Time, err error) {
	if ctx.Err() != nil {
		return
	}
	l.retry = min(lastRetry, max(firstRetry, 2*l.retry))
	l.timers.sync.Reset(l.retry)
	l.c.Log.Error("Programming Services failed", "family", l.c.Family, "err", err, "retryIn", l.retry)
	l.c.Health.Failed(l.c.Family, err)
	l.c.Health.queued(l.c.Family, begin)
	l.whole = true
}

// wake sets the time of the next sync if the backend wants one without a change.
func (l *Loop) wake() {
	if l.waker == nil {
		return
	}
	l.timers.wake.Stop()
	if at := l.waker.WakeAt(); !at.IsZero() {
		l.timers.wake.Reset(max(l.rest, at.Sub(l.c.Now())))
	}
}

// report updates health and metrics, and logs problems that are new.
func (l *Loop) report(snap *snapshot.Snapshot, d done) {
	l.c.Health.synced(l.c.Family, l.ended)
	l.c.Metrics.synced(l.c.Family, l.last, snap, d)
	known := map[snapshot.Problem]bool{}
	if l.last != nil {
		for _, p := range l.last.Problems {
			known[p] = true
		}
	}
	for _, p := range snap.Problems {
		if !known[p] {
			l.c.Log.Warn("Ignored an invalid part of an object", "family", l.c.Family, "object", p.Object, "reason", p.Reason)
		}
	}
}

// reportLeftOut names the ports without rules in health and metrics, and logs those that are new.
func (l *Loop) reportLeftOut(left *snapshot.LeftOutError) {
	known := l.leftOut
	l.leftOut = map[string]bool{}
	if left == nil {
		left = &snapshot.LeftOutError{}
	} else {
		l.c.Health.Failed(l.c.Family, left)
	}
	for _, p := range left.Problems {
		l.leftOut[p.Object] = true
		if !known[p.Object] {
			l.c.Log.Error("The kernel refused the rules of a Service port", "family", l.c.Family, "object", p.Object, "reason", p.Reason)
		}
	}
	l.c.Metrics.leftOut(l.c.Family, left.Problems)
}

// observe passes the last snapshot to each Observer that has not accepted it yet.
func (l *Loop) observe(ctx context.Context) {
	for i, o := range l.c.Observers {
		if l.seen[i] == l.last || l.last == nil {
			continue
		}
		if err := o.Synced(ctx, l.seen[i], l.last); err != nil {
			l.c.Log.Error("Work after a sync of Services failed", "family", l.c.Family, "err", err)
			continue
		}
		l.seen[i] = l.last
	}
}

// check says whether a repair is needed.
func (l *Loop) check(ctx context.Context) bool {
	if l.last == nil || l.retry > 0 {
		return false
	}
	l.observe(ctx)
	begin := l.c.Now()
	drift, err := l.c.Backend.Check(ctx)
	l.checked = l.c.Now()
	// decays slowly: a check that finds the kernel unchanged reads nothing and is cheap
	l.effort = max(l.checked.Sub(begin), l.effort*9/10)
	if err != nil {
		l.checkFailed(ctx, err)
		return false
	}
	if len(drift) == 0 {
		return false
	}
	l.c.Log.Warn("Service rules have changed in the kernel; writing them again", "family", l.c.Family, "differences", len(drift), "first", drift[0])
	return true
}

// quickCheck looks whether another program has written, and brings forward the check or repairs.
func (l *Loop) quickCheck(ctx context.Context) {
	if l.last == nil || l.retry > 0 {
		return
	}
	written, lost, err := l.quick.QuickCheck(ctx)
	switch {
	case err != nil:
		l.checkFailed(ctx, err)
	case lost != "":
		l.c.Log.Warn("Another program removed service rules; writing them again", "family", l.c.Family, "lost", lost)
		l.repair()
		return
	}
	if written {
		l.timers.check.Reset(max(0, checkFactor*l.effort-l.c.Now().Sub(l.checked)))
	}
}

func (l *Loop) checkFailed(ctx context.Context, err error) {
	if ctx.Err() == nil {
		l.c.Log.Error("Checking service rules failed", "family", l.c.Family, "err", err)
	}
}
