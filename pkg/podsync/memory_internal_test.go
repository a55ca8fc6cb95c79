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
		turn := turn{entry: e, want: podplan.Want{UID: "u1", Pod: pod}, rt: rt, now: now}
		have, err := l.observe(t.Context(), turn)
		if err != nil {
			t.Fatal(err)
		}
		m := &e.work.memory
		m.Observe(turn.want, have, now)
		for _, c := range rt.Containers { // whose signals and removals fail at first
			m.Note(podplan.RunHook{Container: "app", ContainerID: c.ID, Kind: podspec.PreStop}, podplan.ActionResult{}, now)
			m.Note(podplan.StopContainer{Container: "app", ContainerID: c.ID}, podplan.ActionResult{}, now)
			m.Note(podplan.RemoveContainer{Container: "app", ContainerID: c.ID}, podplan.ActionResult{Err: context.DeadlineExceeded}, now)
		}
		if kept := len(e.work.messages); kept > 2 || have.Messages[fmt.Sprint("app-", attempt)] == "" {
			t.Fatalf("after %d restarts %d termination messages are kept: %q", attempt, kept, have.Messages)
		}
		if len(m.Hooks) > 4 || len(m.Stops) > 4 || len(m.Removal) > 4 {
			t.Fatalf("after %d restarts %d hooks, %d stops and %d removals are kept", attempt, len(m.Hooks), len(m.Stops), len(m.Removal))
		}
	}
}
