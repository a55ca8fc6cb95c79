package containerd

import (
	"context"
	"errors"
	"strconv"
	"time"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"

	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/sleep"
)

// lostCode is the exit code of a container whose task vanished without reporting one, as after a
// reboot or a killed shim.
const lostCode = 255

// drainTime is how long to wait for the rest of an exited container's output, so that its log is
// complete when the exit is reported. A process that the container left behind may hold the pipe
// open for ever.
const drainTime = 2 * time.Second

// recordTime is how long to wait for the exit to be recorded before it is reported anyway.
const recordTime = 5 * time.Second

// watchExit starts a goroutine that waits for the container's exit. Events report exits too, but
// get lost while the connection is down.
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
			r.recordExit(ctx, id, int(resp.ExitStatus), resp.ExitedAt.AsTime())
			return
		}
		if errors.Is(native(err), runtime.ErrNotFound) {
			if !r.taskLost(ctx, id) {
				return
			}
			continue
		}
		// The shim died, in which case containerd will delete the task, or containerd is down.
		if sleep.For(ctx, wait) != nil {
			return
		}
		if c, ok := r.view.find(id); !ok || c.exiting {
			return
		}
	}
}

// lostGrace is how long to wait for the exit event of a vanished task. A shim resends its events
// one second after containerd comes back.
const lostGrace = 3 * time.Second

// taskLost handles a container whose task seems to be gone: containerd deletes tasks that ended
// while it was down. The exit code comes from the kernel if it still has it, else from an event. It
// returns true if the task turns out to exist.
func (r *Runtime) taskLost(ctx context.Context, id string) (found bool) {
	code, known := 0, false
	r.view.with(id, func(c *container) bool { code, known = exitCode(c.pidfd); return false })
	if known {
		r.recordExit(ctx, id, code, r.c.Now())
		return false
	}
	for wait := lostGrace; sleep.For(ctx, wait) == nil; wait = min(2*wait, maxAgain) {
		task, err := r.hasTask(ctx, id)
		switch {
		case err != nil:
			r.c.Logger.Warn("Container's task cannot be read, trying again", "container", id, "err", err)
		case task:
			return true
		default:
			r.recordExit(ctx, id, lostCode, r.c.Now())
			return false
		}
	}
	return false
}

// hasTask reports whether the container has a task, once no other call has it locked.
func (r *Runtime) hasTask(ctx context.Context, id string) (bool, error) {
	unlock, err := r.locks.lock(ctx, containerKey(id))
	if err != nil {
		return false, err
	}
	defer unlock()
	task, err := r.task(ctx, id)
	return task != nil, err
}

// recordExit records the exit of a container, once, and then deletes the task so that its shim can
// exit. This order makes a crash in between harmless: the task keeps the exit code until the record
// has it. If the exit cannot be recorded yet, the view reports it anyway, since the container no
// longer runs.
func (r *Runtime) recordExit(ctx context.Context, id string, code int, at time.Time) {
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
			r.c.Logger.Info("Container's last output is not in its log yet", "container", id, "err", err)
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
		r.deleteEndedTask(ctx, c)
	}
}

// deleteEndedTask deletes an exited container's task and retries until it is gone.
func (r *Runtime) deleteEndedTask(ctx context.Context, c container) {
	for wait := minAgain; ; wait = min(2*wait, maxAgain) {
		err := r.deleteTask(ctx, &c)
		if err == nil || ctx.Err() != nil {
			return
		}
		r.c.Logger.Warn("Task of an exited container cannot be deleted, trying again", "container", c.c.ID, "err", err)
		if sleep.For(ctx, wait) != nil {
			return
		}
		if _, ok := r.view.find(c.c.ID); !ok {
			return
		}
	}
}
