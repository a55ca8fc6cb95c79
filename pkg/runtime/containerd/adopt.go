package containerd

import (
	"context"
	"errors"
	"fmt"
	"sync"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"

	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/sleep"
)

// adoptWorkers is how many containers are observed in parallel after a connect.
const adoptWorkers = 8

// adoptAll observes every container. It does not wait for containers that another call has locked,
// nor for those whose task does not answer: they are observed later, in the background. A container
// that is not in the view and cannot be observed is an error, because the pod would start it a
// second time.
func (r *Runtime) adoptAll(ctx context.Context, ids map[string]bool) error {
	var mu sync.Mutex
	var unknown error
	var workers sync.WaitGroup
	slots := make(chan struct{}, adoptWorkers)
	for id := range ids {
		slots <- struct{}{}
		workers.Go(func() {
			defer func() { <-slots }()
			unlock, ok := r.locks.tryLock(containerKey(id))
			if !ok {
				r.observeLater(id)
				return
			}
			defer unlock()
			err := r.observe(ctx, id)
			if err == nil {
				return
			}
			if _, known := r.view.find(id); known {
				r.c.Logger.Warn("Container cannot be observed, trying again", "container", id, "err", err)
				r.observeLater(id)
				return
			}
			mu.Lock()
			unknown = fmt.Errorf("observing container %.12s: %w", id, err)
			mu.Unlock()
		})
	}
	workers.Wait()
	return unknown
}

// observeLater observes a container in the background once no other call has it locked, and retries
// until that succeeds.
func (r *Runtime) observeLater(id string) {
	first := false
	r.mu.Lock()
	if !r.observing[id] {
		first, r.observing[id] = true, true
	}
	r.mu.Unlock()
	if !first {
		return
	}
	done := func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.observing, id)
	}
	if !r.spawn(func(ctx context.Context) {
		defer done()
		for wait := minAgain; ; wait = min(2*wait, maxAgain) {
			if sleep.For(ctx, wait) != nil || r.observeLocked(ctx, id) == nil {
				return
			}
		}
	}) {
		done()
	}
}

func (r *Runtime) observeLocked(ctx context.Context, id string) error {
	unlock, err := r.locks.lock(ctx, containerKey(id))
	if err != nil {
		return err
	}
	defer unlock()
	return r.observe(ctx, id)
}

// observe brings the view of one container up to date with the host. The caller holds the
// container's lock, so no start or removal is in progress while record and task are read.
func (r *Runtime) observe(ctx context.Context, id string) error {
	record, err := r.store().Get(ctx, id)
	if errdefs.IsNotFound(err) {
		r.view.drop(id)
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the record: %w", native(err))
	}
	task, err := r.task(ctx, id)
	if err != nil {
		if _, known := r.view.find(id); known {
			return err // the view stays as it is until the task answers
		}
		task = &tasktypes.Process{Status: tasktypes.Status_UNKNOWN}
	}
	return errors.Join(err, r.adopt(ctx, record, task))
}

// task returns the container's task, or nil if it has none.
func (r *Runtime) task(ctx context.Context, id string) (*tasktypes.Process, error) {
	got, err := r.tasks().Get(ctx, &tasksapi.GetRequest{ContainerID: id})
	if err = native(err); errors.Is(err, runtime.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("asking for the task: %w", err)
	}
	return got.Process, nil
}

// adopt puts one container into the view, waits for its exit and continues its log.
func (r *Runtime) adopt(ctx context.Context, record containers.Container, task *tasktypes.Process) error {
	log := r.c.Logger.With("container", record.ID)
	ref, c, s, err := fromRecord(record)
	if err != nil {
		log.Warn("Container has unreadable labels and is ignored", "err", err)
		return nil
	}
	spec, err := specOf(record)
	if err != nil {
		log.Warn("Container's spec cannot be read", "err", err)
	} else {
		c.Resources = resourcesOf(spec)
	}
	next := &container{ref: ref, c: c, streams: s, exiting: c.State == runtime.Exited}
	if spec != nil {
		next.cgroup, next.group = cgroupOf(spec), spec.Annotations[groupAnnotation]
	}
	if next.c.StartedAt.IsZero() {
		next.c.StartedAt = r.notedStart(record.ID)
	}
	if have, ok := r.view.find(record.ID); ok {
		next.watched, next.oom, next.exiting, next.tasked = have.watched, have.oom, next.exiting || have.exiting, have.tasked
		if next.c.StartedAt.IsZero() {
			next.c.StartedAt = have.c.StartedAt
		}
	}
	return r.place(ctx, next, task)
}

// place sets the state of an adopted container by its task.
func (r *Runtime) place(ctx context.Context, c *container, task *tasktypes.Process) error {
	id := c.c.ID
	status := tasktypes.Status(-1)
	if task != nil {
		status = task.Status
	}
	switch {
	case c.c.State == runtime.Exited:
		r.ended(c, task != nil)
	case c.exiting: // its exit is being recorded
	case status == tasktypes.Status_RUNNING || status == tasktypes.Status_PAUSED || status == tasktypes.Status_PAUSING:
		c.c.State, c.c.Pid = runtime.Running, int(task.Pid)
		return r.running(ctx, c)
	case status == tasktypes.Status_STOPPED:
		c.c.State = runtime.Running // until its exit is recorded
		err := r.running(ctx, c)
		r.spawn(func(ctx context.Context) { r.recordExit(ctx, id, int(task.ExitStatus), task.ExitedAt.AsTime()) })
		return err
	case status == tasktypes.Status_UNKNOWN:
		c.c.State = runtime.Unknown
		return r.running(ctx, c)
	case task == nil && !c.c.StartedAt.IsZero():
		if have, ok := r.view.find(id); ok && have.watched {
			return nil // the goroutine that waits for its exit finds out as well
		}
		c.c.State = runtime.Unknown // until its exit is recorded
		r.view.put(c)
		r.spawn(func(ctx context.Context) {
			if r.taskLost(ctx, id) {
				r.observeLater(id)
			}
		})
	default:
		return r.removeUnstarted(ctx, c)
	}
	return nil
}

// removeUnstarted removes a container that was created but never started, because the agent died or
// the call timed out in between.
func (r *Runtime) removeUnstarted(ctx context.Context, c *container) error {
	r.view.put(c) // removeContainer finds the log by it
	ctx, cancel := context.WithTimeout(ctx, cleanupTime)
	defer cancel()
	if err := r.removeContainer(ctx, c.c.ID); err != nil {
		r.view.with(c.c.ID, func(c *container) bool { c.exiting = false; return false })
		return fmt.Errorf("removing a container that was never started: %w", err)
	}
	return nil
}

// ended puts an exited container into the view. A crash right after the exit was recorded may have
// left its task, which is deleted.
func (r *Runtime) ended(c *container, task bool) {
	r.view.put(c)
	if !task {
		return
	}
	copied := *c
	r.spawn(func(ctx context.Context) { r.deleteEndedTask(ctx, copied) })
}

// running puts a container with a task into the view. An error concerns only the container's log.
func (r *Runtime) running(ctx context.Context, c *container) error {
	if c.c.StartedAt.IsZero() {
		c.c.StartedAt = c.c.CreatedAt
	}
	r.view.put(c)
	r.view.with(c.c.ID, func(c *container) bool { c.hold(); return false })
	r.watchExit(c.c.ID)
	if c.c.Name == "" {
		return nil
	}
	if err := r.c.Pump.Open(ctx, r.outputOf(c.ref, c.c, c.streams, true)); err != nil {
		return fmt.Errorf("continuing the log: %w", err)
	}
	return nil
}
