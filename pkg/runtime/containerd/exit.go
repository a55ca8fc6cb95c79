package containerd

import (
	"bufio"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"

	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/sleep"
)

// lostCode is the exit code of a container whose task is gone without having told one: a reboot, a
// killed shim.
const lostCode = 255

// drainTime is how long the rest of an ended container's output is waited for, so that its log is
// whole when its end is told. A process that it left behind may hold the pipe open for ever.
const drainTime = 2 * time.Second

// recordTime is how long the record of a container's end is waited for before it is shown all the
// same.
const recordTime = 5 * time.Second

// watchExit has a goroutine wait for the container's end. Events tell it as well, but events are
// lost at reconnects.
func (r *Runtime) watchExit(id string) {
	started := false
	r.view.with(id, func(c *container) bool {
		started = !c.watched && !c.exiting
		c.watched = c.watched || started
		return false
	})
	if !started {
		return
	}
	ok := r.spawn(func(ctx context.Context) {
		r.waitExit(ctx, id)
		r.view.with(id, func(c *container) bool { c.watched = false; return false })
	})
	if !ok {
		r.view.with(id, func(c *container) bool { c.watched = false; return false })
	}
}

func (r *Runtime) waitExit(ctx context.Context, id string) {
	for wait := 100 * time.Millisecond; ctx.Err() == nil; wait = min(2*wait, maxRetry) {
		resp, err := r.tasks().Wait(ctx, &tasksapi.WaitRequest{ContainerID: id})
		if err == nil {
			r.exited(ctx, id, int(resp.ExitStatus), resp.ExitedAt.AsTime())
			return
		}
		if errors.Is(native(err), runtime.ErrNotFound) {
			if !r.lost(ctx, id) {
				return
			}
			continue
		}
		// The shim died, which containerd finds out and deletes the task, or containerd is away.
		if sleep.For(ctx, wait) != nil {
			return
		}
		if c, ok := r.view.find(id); !ok || c.exiting {
			return
		}
	}
}

// lostGrace is how long the event of a lost task's end is waited for. A shim whose containerd was
// away sends its events again after a second.
const lostGrace = 3 * time.Second

// lost is a container whose task seems to be gone, as containerd deletes what ended while it was
// away. The kernel may tell how it ended, else only an event can. It returns whether the task is
// there all the same.
func (r *Runtime) lost(ctx context.Context, id string) (found bool) {
	code, known := 0, false
	r.view.with(id, func(c *container) bool { code, known = exitCode(c.pidfd); return false })
	if known {
		r.exited(ctx, id, code, r.c.Now())
		return false
	}
	for wait := lostGrace; sleep.For(ctx, wait) == nil; wait = min(2*wait, maxAgain) {
		task, err := r.settled(ctx, id)
		switch {
		case err != nil:
			r.c.Logger.Warn("Container's task cannot be asked for, trying again", "container", id, "err", err)
		case task:
			return true
		default:
			r.exited(ctx, id, lostCode, r.c.Now())
			return false
		}
	}
	return false
}

// settled says whether a container has a task while no call is about it.
func (r *Runtime) settled(ctx context.Context, id string) (bool, error) {
	unlock, err := r.locks.lock(ctx, containerKey(id))
	if err != nil {
		return false, err
	}
	defer unlock()
	task, err := r.task(ctx, id)
	return task != nil, err
}

// exited shows the end of a container, records it, once, then deletes the task so that its shim may
// end. The order is what makes a crash in between harmless: the task keeps the exit code until the
// record has it. What cannot be recorded yet is shown all the same: the container does not run.
func (r *Runtime) exited(ctx context.Context, id string, code int, at time.Time) {
	first := false
	var c container
	r.view.with(id, func(have *container) bool {
		first = !have.exiting
		have.exiting = true
		c = *have
		return false
	})
	if !first {
		return
	}
	oom := c.oom || r.oomKilled(ctx, c, code)
	if c.c.Name != "" {
		drain, cancel := context.WithTimeout(ctx, drainTime)
		if err := r.c.Pump.Drain(drain, id); err != nil && ctx.Err() == nil {
			r.c.Logger.Info("container's last output may be late", "container", id, "err", err)
		}
		cancel()
	}
	labels := map[string]string{labelFinished: stamp(at), labelExitCode: strconv.Itoa(code), labelStarted: stamp(c.c.StartedAt)}
	if oom {
		labels[labelOOM] = "true"
	}
	soon, cancel := context.WithTimeout(ctx, recordTime)
	err := r.setLabels(soon, id, labels)
	cancel()
	r.view.with(id, func(have *container) bool {
		have.c.State, have.c.ExitCode, have.c.FinishedAt, have.c.OOMKilled, have.c.Pid = runtime.Exited, code, at, oom, 0
		have.release()
		return true
	})
	if c.c.Name == "" {
		r.reaperEnded(c)
	}
	if err != nil {
		err = r.record(ctx, id, labels)
	}
	if err == nil || errors.Is(err, runtime.ErrNotFound) {
		r.dropTask(ctx, c)
	}
}

// dropTask deletes an ended container's task, again and again until it is gone.
func (r *Runtime) dropTask(ctx context.Context, c container) {
	for wait := minAgain; ; wait = min(2*wait, maxAgain) {
		err := r.deleteTask(ctx, &c)
		if err == nil || ctx.Err() != nil {
			return
		}
		r.c.Logger.Warn("Ended task cannot be deleted, trying again", "container", c.c.ID, "err", err)
		if sleep.For(ctx, wait) != nil {
			return
		}
		if _, ok := r.view.find(c.c.ID); !ok {
			return
		}
	}
}

// reaperEnded makes a sandbox unready whose shared PID namespace has lost its first process: the
// kernel lets nothing start in it any more.
func (r *Runtime) reaperEnded(c container) {
	s, ok := r.view.sandbox(c.ref.UID)
	if !ok || s.Sandbox.ID != c.c.ID {
		return
	}
	s.Sandbox.Ready = false
	r.view.putSandbox(&s)
}

// startedFile has the time of a container's start beside its pipes: written at once where that
// costs nothing, while the label follows in the background.
const startedFile = "started"

func (r *Runtime) noteStart(id string, at time.Time) {
	dir := r.ioDir(id)
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, startedFile), []byte(stamp(at)), 0o600)
	}
	if err != nil {
		r.c.Logger.Warn("container's start cannot be noted", "container", id, "err", err)
	}
}

func (r *Runtime) notedStart(id string) time.Time {
	b, err := os.ReadFile(filepath.Join(r.ioDir(id), startedFile))
	if err != nil {
		return time.Time{}
	}
	at, _ := time.Parse(time.RFC3339Nano, string(b))
	return at
}

// sigkilled is the exit code after SIGKILL, which is what the kernel sends.
const sigkilled = 137

// oomKilled asks the container's cgroup, which is there until the task is deleted: the event may
// come later than the exit. Where systemd has removed the cgroup already, the event is waited for a
// moment.
func (r *Runtime) oomKilled(ctx context.Context, c container, code int) bool {
	killed, known := cgroupOOM(c.cgroup)
	if known || code != sigkilled {
		return killed
	}
	for range 10 {
		if sleep.For(ctx, 10*time.Millisecond) != nil {
			return false
		}
		if have, ok := r.view.find(c.c.ID); ok && have.oom {
			return true
		}
	}
	return false
}

// cgroupOOM reads oom_kill of memory.events (v2) or memory.oom_control (v1).
func cgroupOOM(path string) (killed, known bool) {
	if path == "" {
		return false, false
	}
	path = cgroupDir(path)
	for _, file := range []string{"/sys/fs/cgroup" + path + "/memory.events", "/sys/fs/cgroup/memory" + path + "/memory.oom_control"} {
		f, err := os.Open(file)
		if err != nil {
			continue
		}
		defer func() { _ = f.Close() }()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if n, ok := strings.CutPrefix(lines.Text(), "oom_kill "); ok {
				return n != "0", true
			}
		}
	}
	return false, false
}

// cgroupDir is the folder of an OCI cgroupsPath: a plain path, or systemd's slice:prefix:name.
func cgroupDir(path string) string {
	slice, unit, ok := strings.Cut(path, ":")
	if !ok {
		return filepath.Join("/", path)
	}
	prefix, name, _ := strings.Cut(unit, ":")
	dir, sofar := "/", ""
	for part := range strings.SplitSeq(strings.TrimSuffix(slice, ".slice"), "-") {
		if part == "" {
			continue // "-.slice" is the root
		}
		sofar += part
		dir = filepath.Join(dir, sofar+".slice")
		sofar += "-"
	}
	if strings.HasSuffix(name, ".slice") {
		return filepath.Join(dir, name)
	}
	return filepath.Join(dir, prefix+"-"+name+".scope")
}
