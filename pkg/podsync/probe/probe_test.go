package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// lab answers exec checks by the command's name, and records what happened when.
type lab struct {
	t      *testing.T
	prober *Prober
	start  time.Time

	mu      sync.Mutex
	answers map[string]func(ctx context.Context, out io.Writer) (int, error)
	calls   map[string][]time.Duration // since start, by command
	events  []string
	woken   int
}

func newLab(t *testing.T, m *Metrics) *lab {
	l := &lab{t: t, start: time.Now(), answers: map[string]func(context.Context, io.Writer) (int, error){}, calls: map[string][]time.Duration{}}
	prober, err := New(Config{
		Exec: l, Events: l, Wake: func(types.UID) { l.mu.Lock(); l.woken++; l.mu.Unlock() }, HostIP: func() string { return "127.0.0.1" },
		Metrics: m, Now: time.Now, Random: func() float64 { return 0.5 }, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	l.prober = prober
	return l
}

func (l *lab) Exec(ctx context.Context, _ string, x runtime.ExecConfig) (int, error) {
	name := x.Command[0]
	if name == "unkillable" {
		l.mu.Lock()
		l.calls[name] = append(l.calls[name], time.Since(l.start))
		l.mu.Unlock()
		<-ctx.Done()
		time.AfterFunc(12*time.Second, x.Gone)
		return 0, ctx.Err()
	}
	defer x.Gone()
	l.mu.Lock()
	l.calls[name] = append(l.calls[name], time.Since(l.start))
	answer := l.answers[name]
	l.mu.Unlock()
	if answer == nil {
		return 0, nil
	}
	return answer(ctx, x.IO.Stdout)
}

func (l *lab) Event(object kruntime.Object, _, reason, message string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, object.(*corev1.ObjectReference).FieldPath+" "+reason+" "+message)
}

// answer makes a command answer with an exit code from now on.
func (l *lab) answer(name string, code int, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answers[name] = func(_ context.Context, out io.Writer) (int, error) {
		fmt.Fprint(out, text)
		return code, nil
	}
}

func (l *lab) called(name string) []time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.calls[name])
}

// run runs the prober until the test ends.
func (l *lab) run() func() {
	ctx, cancel := context.WithCancel(l.t.Context())
	done := make(chan error, 1)
	go func() { done <- l.prober.Run(ctx) }()
	synctest.Wait()
	return func() {
		cancel()
		if err := <-done; err != nil {
			l.t.Errorf("Run returned %v", err)
		}
	}
}

func advance(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func command(name string, change ...func(*corev1.Probe)) *corev1.Probe {
	p := &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{name}}},
		PeriodSeconds: 10, TimeoutSeconds: 1, SuccessThreshold: 1, FailureThreshold: 3,
	}
	for _, f := range change {
		f(p)
	}
	return p
}

const id = "container-1"

func probedPod(c corev1.Container) (*corev1.Pod, runtime.Pod) {
	c.Name = "app"
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default", UID: "u1"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{c}},
	}
	have := runtime.Pod{
		Sandbox:    &runtime.Sandbox{IPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}},
		Containers: []runtime.Container{{ID: id, Name: "app", State: runtime.Running, StartedAt: time.Now()}},
	}
	return pod, have
}

// TestInitialDelayDoesNotWaitForTheClock: the clock was set back by two hours since a container was
// started.
func TestInitialDelayDoesNotWaitForTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, nil)
		defer l.run()()
		pod, have := probedPod(corev1.Container{ReadinessProbe: command("ready", func(p *corev1.Probe) { p.InitialDelaySeconds = 7 })})
		have.Containers[0].StartedAt = time.Now().Add(2 * time.Hour).Round(0)
		l.prober.Sync(pod, have)
		advance(10 * time.Second)
		if r := l.prober.Results(id).Readiness; r != podspec.ProbeSuccess {
			t.Errorf("after ten seconds with an initial delay of seven: %q", r)
		}
	})
}

func TestReadinessFollowsThresholdsAndDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, nil)
		defer l.run()()
		pod, have := probedPod(corev1.Container{ReadinessProbe: command("ready", func(p *corev1.Probe) { p.InitialDelaySeconds, p.SuccessThreshold = 7, 2 })})
		l.prober.Sync(pod, have)
		l.prober.Sync(pod, have) // a second Sync changes nothing
		advance(8 * time.Second)
		if r := l.prober.Results(id).Readiness; r != podspec.NotProbed {
			t.Errorf("after one success of two: %q", r)
		}
		advance(10 * time.Second)
		if r := l.prober.Results(id).Readiness; r != podspec.ProbeSuccess || l.woken != 1 {
			t.Errorf("after two successes: %q, woken %d times", r, l.woken)
		}
		l.answer("ready", 1, "no")
		advance(20 * time.Second)
		if r := l.prober.Results(id).Readiness; r != podspec.ProbeSuccess {
			t.Errorf("after two failures of three: %q", r)
		}
		advance(10 * time.Second)
		if r := l.prober.Results(id).Readiness; r != podspec.ProbeFailure || l.woken != 2 {
			t.Errorf("after three failures: %q, woken %d times", r, l.woken)
		}
		want := []time.Duration{7 * time.Second, 17 * time.Second, 27 * time.Second, 37 * time.Second, 47 * time.Second}
		if got := l.called("ready"); !slices.Equal(got, want) {
			t.Errorf("checked at %v, want %v", got, want)
		}
		if n := len(l.events); n != 3 || l.events[0] != "spec.containers{app} Unhealthy Readiness probe failed: no" {
			t.Errorf("events: %q", l.events)
		}
	})
}

func TestStartupHoldsTheOthersBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, nil)
		defer l.run()()
		l.answer("startup", 1, "")
		pod, have := probedPod(corev1.Container{
			StartupProbe:  command("startup", func(p *corev1.Probe) { p.FailureThreshold = 30 }),
			LivenessProbe: command("live"), ReadinessProbe: command("ready"),
		})
		l.prober.Sync(pod, have)
		advance(time.Minute)
		if len(l.called("live"))+len(l.called("ready")) != 0 {
			t.Error("a probe ran before the container had started")
		}
		l.answer("startup", 0, "")
		advance(10 * time.Second)
		if r := l.prober.Results(id); r.Startup != podspec.ProbeSuccess || r.Readiness != podspec.ProbeSuccess || r.Liveness != podspec.ProbeSuccess {
			t.Errorf("at once after the startup: %+v", r)
		}
		before := len(l.called("startup"))
		advance(time.Hour)
		if len(l.called("startup")) != before {
			t.Error("the startup probe ran again after it had succeeded")
		}
	})
}

func TestFailedLivenessIsTheLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, nil)
		defer l.run()()
		l.answer("live", 1, "dead")
		grace := int64(5)
		pod, have := probedPod(corev1.Container{LivenessProbe: command("live", func(p *corev1.Probe) { p.TerminationGracePeriodSeconds = &grace })})
		l.prober.Sync(pod, have)
		advance(time.Hour)
		r := l.prober.Results(id)
		if r.Liveness != podspec.ProbeFailure || r.Message != "dead" || r.Grace == nil || *r.Grace != 5 || len(l.called("live")) != 3 {
			t.Errorf("%+v after %d checks", r, len(l.called("live")))
		}
		// The next attempt is another container.
		have.Containers[0].State = runtime.Exited
		have.Containers = append(have.Containers, runtime.Container{ID: "container-2", Name: "app", Attempt: 1, State: runtime.Running, StartedAt: time.Now()})
		l.answer("live", 0, "")
		l.prober.Sync(pod, have)
		advance(time.Second)
		if r := l.prober.Results("container-2"); r.Liveness != podspec.ProbeSuccess {
			t.Errorf("the next attempt: %+v", r)
		}
		if r := l.prober.Results(id); r != (podspec.Probes{}) {
			t.Errorf("results of a container that has ended: %+v", r)
		}
	})
}

func TestEndingPodKeepsReadinessOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, nil)
		defer l.run()()
		pod, have := probedPod(corev1.Container{LivenessProbe: command("live"), ReadinessProbe: command("ready")})
		l.prober.Sync(pod, have)
		advance(15 * time.Second)
		now := metav1.Now()
		pod.DeletionTimestamp = &now
		l.answer("live", 1, "")
		l.answer("ready", 1, "")
		l.prober.Sync(pod, have)
		advance(time.Minute)
		if r := l.prober.Results(id); r.Liveness != podspec.ProbeSuccess || r.Readiness != podspec.ProbeFailure {
			t.Errorf("%+v", r)
		}
		have.Containers[0].State = runtime.Exited
		l.prober.Sync(pod, have)
		before := len(l.called("ready"))
		advance(time.Hour)
		if len(l.called("ready")) != before {
			t.Error("a container that has ended is still checked")
		}
	})
}

func TestAgentRestartSpreadsChecksAndBelievesInStarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pod, have := probedPod(corev1.Container{StartupProbe: command("startup"), LivenessProbe: command("live")})
		yes := true
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "app", ContainerID: podspec.StatusID(id), Started: &yes}}
		time.Sleep(time.Hour) // the container is an hour old when the agent starts
		l := newLab(t, nil)
		defer l.run()()
		l.prober.Sync(pod, have)
		advance(time.Minute)
		if len(l.called("startup")) != 0 {
			t.Error("the startup probe of a container that had started was run again")
		}
		if got := l.called("live"); len(got) == 0 || got[0] != 5*time.Second {
			t.Errorf("first checked after %v, want half a period", got)
		}
	})
}

func TestTimeoutFailsAndErrorsDoNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewRegistry()
		m, err := NewMetrics(registry)
		if err != nil {
			t.Fatal(err)
		}
		l := newLab(t, m)
		defer l.run()()
		l.answers["slow"] = func(ctx context.Context, _ io.Writer) (int, error) {
			<-ctx.Done()
			return 0, ctx.Err()
		}
		l.answers["broken"] = func(context.Context, io.Writer) (int, error) { return 0, errors.New("no such container") }
		pod, have := probedPod(corev1.Container{
			LivenessProbe: command("slow", func(p *corev1.Probe) { p.FailureThreshold = 1 }), ReadinessProbe: command("broken"),
		})
		l.prober.Sync(pod, have)
		advance(2 * time.Second)
		r := l.prober.Results(id)
		if r.Liveness != podspec.ProbeFailure || !strings.Contains(r.Message, `command timed out: ["slow"] timed out after 1s`) {
			t.Errorf("after a timeout: %+v", r)
		}
		advance(time.Minute)
		if r := l.prober.Results(id).Readiness; r != podspec.NotProbed {
			t.Errorf("a check that could not be made counted as %q", r)
		}
		if calls, want := len(l.called("broken")), 3*7; calls != want {
			t.Errorf("%d tries, want %d", calls, want)
		}
		want := "spec.containers{app} Unhealthy Readiness probe errored and resulted in unknown state: no such container"
		if !slices.Contains(l.events, want) {
			t.Errorf("no %q in %q", want, l.events)
		}
		want = `prober_probe_total container="app" namespace="default" pod="p" pod_uid="u1" probe_type="Readiness" result="unknown" 7`
		if got := gather(t, registry); !slices.Contains(got, want) {
			t.Errorf("no %q in %q", want, got)
		}
		l.prober.Forget("u1")
		synctest.Wait()
		if got := gather(t, registry); len(got) != 0 {
			t.Errorf("series are left of a pod that is gone: %q", got)
		}
	})
}

// gather lists the counters, one per line.
func gather(t *testing.T, r *prometheus.Registry) []string {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, f := range families {
		for _, m := range f.GetMetric() {
			line := f.GetName()
			for _, l := range m.GetLabel() {
				line += fmt.Sprintf(" %s=%q", l.GetName(), l.GetValue())
			}
			lines = append(lines, fmt.Sprint(line, " ", m.GetCounter().GetValue()))
		}
	}
	return lines
}

func TestAHungCommandHoldsUpItsOwnProbeOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, nil)
		defer l.run()()
		for i := range 40 {
			c := corev1.Container{LivenessProbe: command("unkillable"), ReadinessProbe: command("fine")}
			pod, have := probedPod(c)
			pod.UID, have.Containers[0].ID = types.UID(fmt.Sprint(i)), fmt.Sprint(i)
			l.prober.Sync(pod, have)
		}
		advance(500 * time.Millisecond)
		for i := range 40 {
			if r := l.prober.Results(fmt.Sprint(i)).Readiness; r != podspec.ProbeSuccess {
				t.Fatalf("container %d: readiness %q beside hung probes of others", i, r)
			}
		}
		// The second check, at 10 s, finds that the first one's process still exists: it times out
		// and starts none.
		advance(11 * time.Second)
		if n := len(l.called("unkillable")); n != 40 {
			t.Errorf("%d processes were started beside hung ones, want 40", n)
		}
		advance(11 * time.Second)
		r := l.prober.Results("7")
		if r.Liveness != podspec.ProbeFailure {
			t.Errorf("three checks timed out, and liveness is %q", r.Liveness)
		}
		if r.Readiness != podspec.ProbeSuccess {
			t.Errorf("readiness is %q", r.Readiness)
		}
		advance(time.Minute) // the last processes end
	})
}

func TestTheExitCodeCountsThoughTheOutputGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, nil)
		defer l.run()()
		l.answers["background"] = func(ctx context.Context, out io.Writer) (int, error) {
			fmt.Fprint(out, "well")
			<-ctx.Done()
			return 0, fmt.Errorf("%w: %w", runtime.ErrOutputCut, ctx.Err())
		}
		pod, have := probedPod(corev1.Container{ReadinessProbe: command("background")})
		l.prober.Sync(pod, have)
		advance(2 * time.Second)
		if r := l.prober.Results(id).Readiness; r != podspec.ProbeSuccess {
			t.Errorf("a command that exited with 0 made readiness %q", r)
		}
	})
}
