package proxier

import (
	"context"
	"errors"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

const (
	// firstRetry and lastRetry bound the wait after an error; it doubles.
	firstRetry = 100 * time.Millisecond
	lastRetry  = 30 * time.Second
	// restFactor is how many times a sync's duration is left free after it, up
	// to MinInterval: short syncs may follow each other soon, long ones gather more.
	restFactor = 10
	// checkFactor is the same for looking for drift: reading back many rules
	// takes the processor as long as writing them.
	checkFactor = 100
	// glanceInterval is how soon it is seen that another program has written.
	glanceInterval = time.Second
	// settleAfter is how long after a sync, without another, Settled is called.
	settleAfter = 2 * time.Second
)

// Config is what a Loop is made of.
type Config struct {
	Family  corev1.IPFamily
	Tracker *Tracker
	Backend Backend
	// Observers are told, one after the other, after each sync.
	Observers []Observer
	// MinInterval is the longest time that changes are gathered; a change
	// after quiet is not held back. KubeProxyConfiguration minSyncPeriod.
	MinInterval time.Duration
	// CheckInterval is how often a Backend that is a Checker looks for drift
	// and failed Observers are called again; 0: never. KubeProxyConfiguration syncPeriod.
	CheckInterval time.Duration
	// Settled, if not nil, is called when changes have come to rest: what they took can be given
	// back.
	Settled func()
	Health  *Health
	Metrics *Metrics
	Log     *slog.Logger
	// Now is the clock.
	Now func() time.Time
}

// Loop syncs one family. Its life: Run waits until the Tracker is ready, syncs,
// and then sleeps until something changed, a retry is due or it is time to
// look for drift. At most one sync is under way.
type Loop struct {
	c         Config
	builder   *snapshot.Builder
	seen      []*snapshot.Snapshot // by observer: the last one it took
	last      *snapshot.Snapshot   // the last one in the kernel
	retry     time.Duration        // 0: the last sync succeeded
	rest      time.Duration        // to leave between the last sync and the next
	ended     time.Time            // of the last sync
	took      time.Duration        // the last sync
	withdrawn int                  // withdrawals that it knew of
	counted   counts               // changes that the metrics know of
	checked   time.Time            // end of the last look for drift
	effort    time.Duration        // of that look
	left      map[string]bool      // objects that the backend left out
	// the next sync writes everything, after a failure or for what others changed
	whole bool
}

// New checks the configuration; it does nothing yet.
func New(c Config) (*Loop, error) {
	if c.Tracker == nil || c.Backend == nil || c.Log == nil || c.Now == nil || c.Health == nil || c.Metrics == nil {
		return nil, errors.New("making the services loop: Tracker, Backend, Health, Metrics, Log and Now are needed")
	}
	if c.Family != corev1.IPv4Protocol && c.Family != corev1.IPv6Protocol {
		return nil, errors.New("making the services loop: Family must be IPv4 or IPv6")
	}
	if c.Settled == nil {
		c.Settled = func() {}
	}
	return &Loop{c: c, builder: snapshot.NewBuilder(c.Family), seen: make([]*snapshot.Snapshot, len(c.Observers))}, nil
}

// Run blocks until ctx is done, and returns nil then. What is in the kernel
// stays: connections go on while nobody watches.
func (l *Loop) Run(ctx context.Context) error {
	l.c.Health.expect(l.c.Family)
	dirty := l.c.Tracker.subscribe()
	defer l.c.Tracker.unsubscribe(dirty)
	check := newTimer(l.c.CheckInterval)
	defer check.Stop()
	next := time.NewTimer(0) // runs while a sync is due
	defer next.Stop()
	next.Stop()
	glance := newTimer(min(l.c.CheckInterval, glanceInterval))
	defer glance.Stop()
	settle := newTimer(0)
	defer settle.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-dirty:
			if l.c.Tracker.Ready() {
				l.queue()
				if l.retry == 0 {
					next.Reset(l.wait())
				}
			}
		case <-next.C:
			l.sync(ctx)
			if l.retry > 0 {
				next.Reset(l.retry)
			}
			settle.Reset(settleAfter)
		case <-settle.C:
			l.c.Settled()
		case <-check.C:
			if l.check(ctx) {
				l.repair()
				next.Reset(0)
			}
			check.Reset(max(l.c.CheckInterval, checkFactor*l.effort))
		case <-glance.C:
			written, lost := l.glance(ctx)
			if lost {
				l.repair()
				next.Reset(0)
			} else if written {
				check.Reset(max(0, checkFactor*l.effort-l.c.Now().Sub(l.checked)))
			}
			glance.Reset(min(l.c.CheckInterval, glanceInterval))
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

// wait is how long to gather before the next sync. While a pod of this node
// that is not to be used any more has rules, no longer than a sync takes: it
// may be gone soon.
func (l *Loop) wait() time.Duration {
	rest := l.rest
	if l.c.Tracker.withdrawn() != l.withdrawn {
		rest = min(rest, l.took)
	}
	return max(0, rest-l.c.Now().Sub(l.ended))
}

// queue tells that a sync is due: from now on its delay counts.
func (l *Loop) queue() {
	now := l.c.Now()
	l.c.Health.queued(l.c.Family, now)
	l.c.Metrics.queued(l.c.Family, now, l.c.Tracker.total().minus(l.counted))
}

// repair tells that the kernel is not as it should be: a sync is due that writes everything.
func (l *Loop) repair() {
	l.whole = true
	l.queue()
}

func (l *Loop) sync(ctx context.Context) {
	begin := l.c.Now()
	changes := l.c.Tracker.total()
	l.withdrawn = l.c.Tracker.withdrawn()
	snap := l.builder.Build(l.c.Tracker.objects())
	first := l.last == nil
	err := l.c.Backend.Sync(ctx, snap)
	l.ended = l.c.Now()
	took := l.ended.Sub(begin)
	l.took, l.rest = took, min(l.c.MinInterval, restFactor*took)
	var left *snapshot.LeftOutError
	if err != nil && !errors.As(err, &left) {
		if ctx.Err() != nil {
			return
		}
		l.retry = min(lastRetry, max(firstRetry, 2*l.retry))
		l.c.Log.Error("syncing service rules failed", "family", l.c.Family, "error", err, "retryIn", l.retry)
		l.c.Health.failed(l.c.Family, err)
		l.c.Health.queued(l.c.Family, begin)
		l.whole = true
		return
	}
	l.retry = 0
	l.report(snap, done{begin: begin, took: took, changes: changes.minus(l.counted), full: first || l.whole})
	l.counted, l.whole = changes, false
	l.tellLeft(left)
	if first {
		l.c.Log.Info("service rules are in place", "family", l.c.Family, "services", len(snap.Services), "endpoints", snap.EndpointCount(), "took", took)
	}
	l.last = snap
	l.observe(ctx)
}

// report tells health and metrics, and logs problems that are new.
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
			l.c.Log.Warn("part of a Service is left out", "family", l.c.Family, "object", p.Object, "reason", p.Reason)
		}
	}
}

// tellLeft says which ports have no rules, in health and metrics, and in the log if that is new.
func (l *Loop) tellLeft(left *snapshot.LeftOutError) {
	known := l.left
	l.left = map[string]bool{}
	if left == nil {
		left = &snapshot.LeftOutError{}
	} else {
		l.c.Health.failed(l.c.Family, left)
	}
	for _, p := range left.Problems {
		l.left[p.Object] = true
		if !known[p.Object] {
			l.c.Log.Error("the rules of a Service are left out", "family", l.c.Family, "object", p.Object, "reason", p.Reason)
		}
	}
	l.c.Metrics.leftOut(l.c.Family, left.Problems)
}

// observe tells each Observer of the last snapshot, unless it took it already.
func (l *Loop) observe(ctx context.Context) {
	for i, o := range l.c.Observers {
		if l.seen[i] == l.last || l.last == nil {
			continue
		}
		if err := o.Synced(ctx, l.seen[i], l.last); err != nil {
			l.c.Log.Error("acting on new service rules failed", "family", l.c.Family, "error", err)
			continue
		}
		l.seen[i] = l.last
	}
}

// check says whether a sync is needed now.
func (l *Loop) check(ctx context.Context) bool {
	if l.last == nil || l.retry > 0 {
		return false
	}
	l.observe(ctx)
	checker, ok := l.c.Backend.(Checker)
	if !ok {
		return false
	}
	begin := l.c.Now()
	drift, err := checker.Check(ctx)
	l.checked = l.c.Now()
	// a look that had nothing to read says little
	l.effort = max(l.checked.Sub(begin), l.effort*9/10)
	if err != nil {
		if ctx.Err() == nil {
			l.c.Log.Error("looking for changed service rules failed", "family", l.c.Family, "error", err)
		}
		return false
	}
	if len(drift) == 0 {
		return false
	}
	l.c.Log.Warn("service rules are not what was written; writing them again", "family", l.c.Family, "differences", len(drift), "first", drift[0])
	return true
}

// glance says whether another program has written, and whether a sync is needed now.
func (l *Loop) glance(ctx context.Context) (written, lost bool) {
	g, ok := l.c.Backend.(Glancer)
	if !ok || l.last == nil || l.retry > 0 {
		return false, false
	}
	written, what, err := g.Glance(ctx)
	if err != nil && ctx.Err() == nil {
		l.c.Log.Error("looking for changed service rules failed", "family", l.c.Family, "error", err)
	}
	if what != "" {
		l.c.Log.Warn("another program removed service rules; writing them again", "family", l.c.Family, "first", what)
	}
	return written, what != ""
}
