package probe

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/sleep"
)

// worker runs one probe of one container. Its fields do not change once it runs.
type worker struct {
	prober    *Prober
	kind      Kind
	spec      *corev1.Probe
	pod       *corev1.Pod
	container *corev1.Container
	id        string
	began     time.Time // start of the container, as podspec.OwnMoment; the initial delay counts from it
	address   string
	started   <-chan struct{}
	cancel    context.CancelFunc
	process   chan struct{} // holds an item while the process of a command exists
}

// checked is what one check found.
type checked struct {
	result podspec.ProbeResult // NotProbed: the check could not be made
	text   string              // for people: the answer, or why the check could not be made
	warned bool                // it succeeded, and text is a warning
}

// run checks until ctx ends or the result is final.
func (w *worker) run(ctx context.Context) {
	period := seconds(w.spec.PeriodSeconds, 10)
	if w.kind != Startup {
		select {
		case <-ctx.Done():
			return
		case <-w.started:
		}
	}
	first := w.began.Add(time.Duration(w.spec.InitialDelaySeconds) * time.Second)
	if w.began.Before(w.prober.began) {
		// The agent was restarted: spread the checks of the node's containers over their first
		// period.
		jitter := time.Duration(w.prober.config.Random() * float64(period))
		first = later(first, w.prober.config.Now().Add(jitter))
	}
	if sleep.For(ctx, first.Sub(w.prober.config.Now())) != nil {
		return
	}
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	streak, last := int32(0), podspec.NotProbed
	for {
		o := w.once(ctx)
		if ctx.Err() != nil {
			return
		}
		if o.result != podspec.NotProbed {
			if streak++; o.result != last {
				streak, last = 1, o.result
			}
			if streak >= w.threshold(o.result) {
				w.prober.set(w, o.result, o.text)
				if w.isFinal(o.result) {
					return
				}
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// threshold is how many checks in a row must agree on a result.
func (w *worker) threshold(r podspec.ProbeResult) int32 {
	if r == podspec.ProbeFailure {
		return orDefault(w.spec.FailureThreshold, 3)
	}
	return orDefault(w.spec.SuccessThreshold, 1)
}

// isFinal reports whether no check of this container follows this result.
func (w *worker) isFinal(r podspec.ProbeResult) bool {
	return w.kind == Startup || w.kind == Liveness && r == podspec.ProbeFailure
}

// once makes one check, counts it, and sends an event when it did not plainly succeed.
func (w *worker) once(ctx context.Context) checked {
	const tries = 3 // of a check that cannot be made
	began := w.prober.config.Now()
	var o checked
	for range tries {
		if o = w.prober.check.check(ctx, w); o.result != podspec.NotProbed || ctx.Err() != nil {
			break
		}
	}
	if ctx.Err() != nil {
		return o
	}
	w.prober.config.Metrics.count(w, o.result, w.prober.config.Now().Sub(began))
	switch {
	case o.result == podspec.NotProbed:
		w.event("Unhealthy", string(w.kind)+" probe errored and resulted in unknown state: "+o.text)
	case o.result == podspec.ProbeFailure:
		w.event("Unhealthy", string(w.kind)+" probe failed: "+o.text)
	case o.warned:
		w.event("ProbeWarning", string(w.kind)+" probe warning: "+o.text)
	}
	return o
}

func (w *worker) event(reason, message string) {
	w.prober.config.Events.Event(podspec.ContainerReference(w.pod, w.container.Name), corev1.EventTypeWarning, reason, message)
}

func orDefault(n, fallback int32) int32 {
	if n <= 0 {
		return fallback
	}
	return n
}

func seconds(n, fallback int32) time.Duration {
	return time.Duration(orDefault(n, fallback)) * time.Second
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
