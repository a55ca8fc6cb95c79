package podplan_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeagent/nodeagent/internal/wallclock"
	"github.com/nodeagent/nodeagent/pkg/podsync/podplan"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// set sets the host's clock, as time synchronisation does.
func (h *host) set(by time.Duration) {
	h.now = wallclock.Set(h.now, by)
	h.print(fmt.Sprintf("> clock set by %s", by))
}

// onRealClock gives the host a clock with both readings, as the agent's is.
func (h *host) onRealClock() {
	h.start = time.Now()
	h.now = h.start
}

// longest is the longest that a plan may want to sleep for: the largest back-off, or what the pod
// itself asks for.
func longest(pod *corev1.Pod) time.Duration {
	most := 300 * time.Second
	for _, s := range []*int64{pod.Spec.TerminationGracePeriodSeconds, pod.DeletionGracePeriodSeconds, pod.Spec.ActiveDeadlineSeconds} {
		if s != nil {
			most = max(most, time.Duration(*s)*time.Second)
		}
	}
	return most
}

// TestClockIsSet plays lives while somebody sets the machine's clock, by hours in either direction,
// also between a life of the agent and the next: no plan ever sleeps for longer than the largest
// back-off, and every pod comes to rest.
func TestClockIsSet(t *testing.T) {
	lives := 250
	if testing.Short() {
		lives = 100
	}
	for seed := range uint64(lives) {
		l := newLife(seed + 2_000_000)
		l.onRealClock()
		for range 120 {
			l.step()
			if sleep := l.plan.WakeAt.Sub(l.now); !l.plan.WakeAt.IsZero() && sleep > longest(l.want.Pod) {
				l.rule(true, "a plan sleeps for %s", sleep)
			}
			l.event()
			if l.chance(10) {
				l.set(time.Duration(l.rand.IntN(4*3600)-2*3600) * time.Second)
			}
		}
		l.headroom = podplan.Headroom{}
		l.advance(10 * time.Minute)
		for range 6 { // each init container takes a round
			l.allAnswer()
		}
		l.rule(!l.ready() && !l.plan.Stopped, "neither ready nor ended: %s; %v", summary(l.status), l.plan)
		l.rule(len(l.plan.Actions) > 0, "not at rest: %v", l.plan)
		if len(l.wrong) > 0 {
			pod, _ := json.Marshal(l.want.Pod)
			t.Fatalf("seed %d:\n%s\nlife:\n%s\npod: %s", seed, strings.Join(l.wrong, "\n"), l.log, pod)
		}
	}
}

// crashed is a pod whose container ended at this moment by the record.
func crashed(finished time.Time) (podplan.Want, podplan.Observed) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u", Name: "p", Namespace: "ns"}}
	pod.Spec.RestartPolicy = corev1.RestartPolicyAlways
	pod.Spec.Containers = []corev1.Container{{Name: "app", Image: "i"}}
	sandbox := runtime.SandboxID("u", 0)
	return podplan.Want{UID: "u", Pod: pod}, podplan.Observed{Runtime: runtime.Pod{
		Sandbox: &runtime.Sandbox{ID: sandbox, Ready: true},
		Containers: []runtime.Container{{
			ID: "c0", Name: "app", SandboxID: sandbox, State: runtime.Exited, ExitCode: 1,
			CreatedAt: finished.Add(-time.Minute).Round(0), FinishedAt: finished.Round(0), SpecHash: podspec.SpecHash(&pod.Spec.Containers[0]),
		}},
	}}
}

// TestRestartDoesNotWaitForTheClock: the clock was two hours ahead when a container ended (a
// hardware clock in local time, read at boot), and was synchronised before the agent saw it. The
// first restart is made at once, and a later one after its back-off.
func TestRestartDoesNotWaitForTheClock(t *testing.T) {
	// what the record says: so long before now
	for _, after := range []time.Duration{-2 * time.Hour, 0, 2 * time.Hour} {
		for _, delay := range []time.Duration{0, 40 * time.Second} {
			now := time.Now()
			want, observed := crashed(now.Add(-after))
			var state podplan.State
			if delay > 0 {
				state.Crashes = map[string]podplan.CrashState{"app": {Delay: delay, LastRestart: now.Add(-time.Minute)}}
			}
			state, _, plan := podplan.Step(want, state, observed, now)
			if sleep := plan.WakeAt.Sub(now); !plan.WakeAt.IsZero() && sleep > delay {
				t.Errorf("ended %s ago with a back-off of %s: looked at again in %s", after, delay, sleep)
			}
			if delay == 0 && len(plan.Actions) == 0 {
				t.Errorf("ended %s ago without a back-off: nothing is done, %v", after, plan)
			}
			// Setting the clock once it is being waited for changes nothing.
			for _, by := range []time.Duration{-2 * time.Hour, 2 * time.Hour} {
				if _, _, again := podplan.Step(want, state, observed, wallclock.Set(now, by)); fmt.Sprint(again.Actions) != fmt.Sprint(plan.Actions) || !again.WakeAt.Equal(plan.WakeAt) {
					t.Errorf("ended %s ago with a back-off of %s: the clock set by %s makes the plan\n%v of\n%v", after, delay, by, again, plan)
				}
			}
		}
	}
}

// TestDeadlinesDoNotFollowTheClock: grace period and active deadline last as long as they say while
// the clock is set.
func TestDeadlinesDoNotFollowTheClock(t *testing.T) {
	for _, by := range []time.Duration{-2 * time.Hour, 2 * time.Hour} {
		start := time.Now()
		want, observed := crashed(start)
		observed.Runtime.Containers[0].State = runtime.Running
		want.Pod.Spec.ActiveDeadlineSeconds = new(int64(600))
		want.Reported.StartTime = &metav1.Time{Time: start.Truncate(time.Second)}
		state, _, _ := podplan.Step(want, podplan.State{}, observed, start)
		for at, ends := range map[time.Duration]bool{598 * time.Second: false, 602 * time.Second: true} {
			now := wallclock.Set(start.Add(at), by)
			if _, v, _ := podplan.Step(want, state, observed, now); v.Ends != ends {
				t.Errorf("clock set by %s: after %s of 600 the pod ends: %v", by, at, v.Ends)
			}
		}

		want.Pod.Spec.ActiveDeadlineSeconds = nil
		want.Pod.DeletionTimestamp, want.Pod.DeletionGracePeriodSeconds = &metav1.Time{Time: start.Add(30 * time.Second)}, new(int64(30))
		observed.Completed = []podplan.Completed{{Action: podplan.StopContainer{Container: "app", ContainerID: "c0"}}}
		state, _, _ = podplan.Step(want, state, observed, start)
		observed.Completed = nil
		for at, kills := range map[time.Duration]bool{29 * time.Second: false, 31 * time.Second: true} {
			now := wallclock.Set(start.Add(at), by)
			if _, _, plan := podplan.Step(want, state, observed, now); strings.Contains(fmt.Sprint(plan.Actions), "kill") != kills {
				t.Errorf("clock set by %s: after %s of 30 the plan is %v", by, at, plan)
			}
		}
	}
}
