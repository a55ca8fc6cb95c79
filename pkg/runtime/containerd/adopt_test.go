package containerd

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// A container exits while containerd's disk is full: it is reported as exited, and recorded once
// the disk has room.
func TestAnEndThatCannotBeRecordedYet(t *testing.T) {
	d := newDaemon(t)
	r := d.runtime(time.Now)
	until(t, "the container is seen", func() bool { return state(r) == runtime.Running })
	d.with(func() { d.full = true })
	close(d.ended)
	until(t, "the end is shown", func() bool { return state(r) == runtime.Exited })
	if got := d.label(labelExitCode); got != "" {
		t.Fatalf("exit code %q is recorded on a full disk", got)
	}
	d.with(func() {
		if d.task == nil {
			t.Error("the task, which alone knows the exit code, was deleted before that was recorded")
		}
		d.full = false
	})
	until(t, "the end is recorded", func() bool { return d.label(labelExitCode) == "3" })
	until(t, "the task is deleted", func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.task == nil
	})
	p, err := r.Get(t.Context(), "u")
	if c := p.Latest("app"); err != nil || c.ExitCode != 3 || c.State != runtime.Exited {
		t.Errorf("%+v, %v", c, err)
	}
}

// A container is given up only after containerd was asked again: right after a reconnect the first
// answer may be too early.
func TestATaskThatIsMissedAtFirstIsNotLost(t *testing.T) {
	d := newDaemon(t)
	d.hidden = 1
	r := d.runtime(time.Now)
	until(t, "the container is seen", func() bool { return state(r) == runtime.Running })
	if got := d.label(labelExitCode); got != "" {
		t.Errorf("a container that runs was recorded as ended with %s", got)
	}
	// Now it is lost for good.
	d.with(func() { d.task = nil })
	close(d.ended)
	d.cut <- struct{}{}
	until(t, "the end is recorded", func() bool { return d.label(labelExitCode) != "" })
}

// The list of a reconcile may be outdated when it gets to a container: a call that starts or
// removes it holds the lock, and the container is observed once that call has ended.
func TestAReconcileLeavesACallAlone(t *testing.T) {
	d := newDaemon(t)
	r := d.runtime(time.Now)
	until(t, "the container is seen", func() bool { return state(r) == runtime.Running })
	unlock, err := r.locks.lock(t.Context(), containerKey("c0"))
	if err != nil {
		t.Fatal(err)
	}
	// In the middle of a start: a record, no task, never started.
	task := d.task
	d.with(func() { d.task = nil; delete(d.labels, labelStarted) })
	r.view.with("c0", func(c *container) bool { c.c.State, c.c.StartedAt = runtime.Created, time.Time{}; return false })
	d.cut <- struct{}{}
	until(t, "the reconcile is over", func() bool { return !r.view.current() })
	until(t, "the reconcile is over", r.view.current)
	if s := state(r); s != runtime.Created || d.removed > 0 {
		t.Errorf("during the start: %q, removed %d times", s, d.removed)
	}
	d.with(func() { d.task = task; d.labels[labelStarted] = stamp(time.Now()) })
	unlock()
	until(t, "what was started is seen", func() bool { return state(r) == runtime.Running })
	if d.removed > 0 {
		t.Error("the container was removed while it was started")
	}
}

// notReady checks that Ready fails in time with these words, the same in each call.
func notReady(t *testing.T, r *Runtime, words string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	err := r.Ready(ctx)
	if !errors.Is(err, runtime.ErrUnavailable) || !strings.Contains(err.Error(), words) {
		t.Errorf("ready: %v; want an error with %q", err, words)
	}
}

func TestAHungDaemonIsNotReady(t *testing.T) {
	d := newDaemon(t)
	r := d.runtime(time.Now)
	until(t, "ready", func() bool { return r.Ready(t.Context()) == nil })
	d.with(func() { d.hung = make(chan struct{}) })
	notReady(t, r, "does not read a record")
	close(d.hung)
	d.with(func() { d.hung = nil })
	until(t, "ready again", func() bool { return r.Ready(t.Context()) == nil })
}

// containerd's disk hangs: it answers reads from memory, but writes never return.
func TestADaemonWithAHungDiskIsNotReady(t *testing.T) {
	var late atomic.Int64
	d := newDaemon(t)
	r := d.runtime(func() time.Time { return time.Now().Add(time.Duration(late.Load())) })
	until(t, "the container is seen", func() bool { return state(r) == runtime.Running })
	d.with(func() { d.frozen = make(chan struct{}) })
	written := make(chan error, 1)
	go func() { written <- r.setLabels(t.Context(), "c0", map[string]string{"x": "y"}) }()
	until(t, "the change is in progress", func() bool { return r.calls.stuck(-1) != "" })
	if err := r.Ready(t.Context()); err != nil {
		t.Errorf("at once: %v", err)
	}
	late.Store(int64(writePatience + time.Second))
	notReady(t, r, "Containers/Update has been in progress for more than 30s")
	close(d.frozen)
	if err := <-written; err != nil {
		t.Error(err)
	}
	until(t, "ready again", func() bool { return r.Ready(t.Context()) == nil })
}

// The socket accepts connections and never answers.
func TestASilentSocket(t *testing.T) {
	d := &daemon{TB: t, address: filepath.Join(t.TempDir(), "s")}
	l, err := net.Listen("unix", d.address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			if _, err := l.Accept(); err != nil {
				return
			}
		}
	}()
	r := d.runtime(time.Now)
	notReady(t, r, "does not answer")
	began := time.Now()
	if _, err := r.StartSandbox(t.Context(), runtime.SandboxConfig{}); !errors.Is(err, runtime.ErrUnavailable) {
		t.Errorf("starting a sandbox: %v", err)
	}
	if _, err := Probe(t.Context(), d.address); err == nil {
		t.Error("probing a silent socket succeeds")
	}
	if took := time.Since(began); took > time.Minute {
		t.Errorf("it took %s", took)
	}
}

// Pods of a kubelet still run in containerd's CRI plugin: the agent does not start beside them, and
// starts once they are gone.
func TestNothingBeginsBesideForeignPods(t *testing.T) {
	d := newDaemon(t)
	d.foreign = true
	r := d.runtime(time.Now)
	var foreign *ForeignError
	until(t, "the runtime says why it does not begin", func() bool { return errors.As(r.Ready(t.Context()), &foreign) })
	for _, words := range []string{"shop/web-0", "--allow-foreign-pods", "systemctl disable --now kubelet"} {
		if !strings.Contains(foreign.Error(), words) {
			t.Errorf("%q does not say %q", foreign, words)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if pods, err := r.List(ctx); err == nil {
		t.Errorf("a pod loop would begin, with %v", pods)
	}
	d.with(func() { d.foreign = false })
	until(t, "it goes on", func() bool { return r.Ready(t.Context()) == nil && state(r) == runtime.Running })
	// CRI pods that appear once this agent has started change nothing.
	d.with(func() { d.foreign = true })
	d.cut <- struct{}{}
	until(t, "the stream is cut", func() bool { return !r.view.current() })
	until(t, "ready again", func() bool { return r.Ready(t.Context()) == nil })
}
