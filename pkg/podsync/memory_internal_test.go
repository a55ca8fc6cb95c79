package podsync

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/podsync/podplan"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

type noHost struct{ Host }

type noProbes struct{ Prober }

func (noProbes) Sync(*corev1.Pod, runtime.Pod)        {}
func (noProbes) Results(string) (none podspec.Probes) { return none }

type longMessages struct{}

func (longMessages) Message(context.Context, runtime.Container, corev1.TerminationMessagePolicy, int) string {
	return "the last 4096 bytes of its log"
}

// TestCrashLoopCostsNoMemory: of a container that crashes for ever, no more is remembered than of
// the attempts that the host still has.
func TestCrashLoopCostsNoMemory(t *testing.T) {
	l := &Loop{config: Config{Prober: noProbes{}, Messages: longMessages{}, Host: noHost{}}}
	e := (&store{entries: map[types.UID]*entry{}}).ensure("u1")
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "i"}}}}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	sandbox := &runtime.Sandbox{ID: "s", Ready: true}
	for attempt := range 100 {
		now = now.Add(6 * time.Minute)
		var rt runtime.Pod
		for i := max(0, attempt-1); i <= attempt; i++ { // the newest and the one before are kept
			rt.Containers = append(rt.Containers, runtime.Container{
				ID: fmt.Sprint("app-", i), Name: "app", Attempt: i, SandboxID: "s", State: runtime.Exited, ExitCode: 1, FinishedAt: now,
			})
		}
		rt.Sandbox = sandbox
		step := step{entry: e, want: podplan.Want{UID: "u1", Pod: pod}, rt: rt, now: now}
		observed, err := l.observe(t.Context(), step)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range rt.Containers { // whose signals and removals fail at first
			e.worker.completed = append(e.worker.completed,
				podplan.Completed{Action: podplan.RunHook{Container: "app", ContainerID: c.ID, Kind: podspec.PreStop}},
				podplan.Completed{Action: podplan.StopContainer{Container: "app", ContainerID: c.ID}},
				podplan.Completed{Action: podplan.RemoveContainer{Container: "app", ContainerID: c.ID}, ActionResult: podplan.ActionResult{Err: context.DeadlineExceeded}})
		}
		l.plan(step, observed)
		if kept := len(e.worker.messages); kept > 2 || observed.Messages[fmt.Sprint("app-", attempt)] == "" {
			t.Fatalf("after %d restarts %d termination messages are kept: %q", attempt, kept, observed.Messages)
		}
		s := &e.worker.state
		if len(s.Hooks) > 4 || len(s.Stops) > 4 || len(s.Removals) > 4 {
			t.Fatalf("after %d restarts %d hooks, %d stops and %d removals are kept", attempt, len(s.Hooks), len(s.Stops), len(s.Removals))
		}
	}
}
