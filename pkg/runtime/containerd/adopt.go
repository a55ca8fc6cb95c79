package containerd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"

	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/sleep"
)

// adopting is how many containers are looked at side by side after a connect.
const adopting = 8

// Delays of what failed and is tried again by time.
const (
	minAgain = 200 * time.Millisecond
	maxAgain = 30 * time.Second
)

// adoptAll looks at each container. It does not wait for those that a call is about just now, nor
// for those whose task cannot be asked for: they are looked at again in the background. One of
// which nothing is known is an error: without it the view would have the pod start it a second
// time.
func (r *Runtime) adoptAll(ctx context.Context, ids map[string]bool) error {
	var mu sync.Mutex
	var unknown error
	var workers sync.WaitGroup
	slots := make(chan struct{}, adopting)
	for id := range ids {
		slots <- struct{}{}
		workers.Go(func() {
			defer func() { <-slots }()
			unlock, ok := r.locks.tryLock(containerKey(id))
			if !ok {
				r.lookAgain(id)
				return
			}
			defer unlock()
			err := r.look(ctx, id)
			if err == nil {
				return
			}
			if _, known := r.view.find(id); known {
				r.c.Logger.Warn("Container could not be looked at, trying again", "container", id, "err", err)
				r.lookAgain(id)
				return
			}
			mu.Lock()
			unknown = fmt.Errorf("looking at container %.12s: %w", id, err)
			mu.Unlock()
		})
	}
	workers.Wait()
	return unknown
}

// lookAgain looks at a container in the background, as soon as no call is about it, and again by
// time until that succeeds.
func (r *Runtime) lookAgain(id string) {
	first := false
	r.mu.Lock()
	if !r.looking[id] {
		first, r.looking[id] = true, true
	}
	r.mu.Unlock()
	if !first {
		return
	}
	done := func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.looking, id)
	}
	if !r.spawn(func(ctx context.Context) {
		defer done()
		for wait := minAgain; ; wait = min(2*wait, maxAgain) {
			if sleep.For(ctx, wait) != nil || r.lookLocked(ctx, id) == nil {
				return
			}
		}
	}) {
		done()
	}
}

func (r *Runtime) lookLocked(ctx context.Context, id string) error {
	unlock, err := r.locks.lock(ctx, containerKey(id))
	if err != nil {
		return err
	}
	defer unlock()
	return r.look(ctx, id)
}

// look makes the view of one container what the host holds. The caller has the container locked:
// what starts or removes it has come to its end, and record and task are asked for after that.
func (r *Runtime) look(ctx context.Context, id string) error {
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
			return err // what the view says holds until more is known
		}
		task = &tasktypes.Process{Status: tasktypes.Status_UNKNOWN}
	}
	return errors.Join(err, r.adopt(ctx, record, task))
}

// task asks for the container's task; nil if there is none.
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

// adopt takes one container into the view, and sees to it that its end is noticed and its output
// goes on.
func (r *Runtime) adopt(ctx context.Context, record containers.Container, task *tasktypes.Process) error {
	log := r.c.Logger.With("container", record.ID)
	ref, c, s, err := fromRecord(record)
	if err != nil {
		log.Warn("container is left alone", "err", err)
		return nil
	}
	spec, err := specOf(record)
	if err != nil {
		log.Warn("container's spec cannot be read", "err", err)
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

// place decides by the task what becomes of an adopted container.
func (r *Runtime) place(ctx context.Context, c *container, task *tasktypes.Process) error {
	id := c.c.ID
	status := tasktypes.Status(-1)
	if task != nil {
		status = task.Status
	}
	switch {
	case c.c.State == runtime.Exited:
		r.ended(c, task != nil)
	case c.exiting: // its end is being recorded
	case status == tasktypes.Status_RUNNING || status == tasktypes.Status_PAUSED || status == tasktypes.Status_PAUSING:
		c.c.State, c.c.Pid = runtime.Running, int(task.Pid)
		return r.running(ctx, c)
	case status == tasktypes.Status_STOPPED:
		c.c.State = runtime.Running // until its end is recorded
		err := r.running(ctx, c)
		r.spawn(func(ctx context.Context) { r.exited(ctx, id, int(task.ExitStatus), task.ExitedAt.AsTime()) })
		return err
	case status == tasktypes.Status_UNKNOWN:
		c.c.State = runtime.Unknown
		return r.running(ctx, c)
	case task == nil && !c.c.StartedAt.IsZero():
		if have, ok := r.view.find(id); ok && have.watched {
			return nil // whoever waits for its end finds the same
		}
		c.c.State = runtime.Unknown // until its end is recorded
		r.view.put(c)
		r.spawn(func(ctx context.Context) {
			if r.lost(ctx, id) {
				r.lookAgain(id)
			}
		})
	default:
		return r.dropHalfMade(ctx, c)
	}
	return nil
}

// dropHalfMade removes what an agent has made that died before it started it, or a call whose time
// was up. Nothing of it ran.
func (r *Runtime) dropHalfMade(ctx context.Context, c *container) error {
	r.view.put(c) // with its log, which goes as well
	ctx, cancel := context.WithTimeout(ctx, cleanupTime)
	defer cancel()
	if err := r.removeContainer(ctx, c.c.ID); err != nil {
		r.view.with(c.c.ID, func(c *container) bool { c.exiting = false; return false })
		return fmt.Errorf("removing a half-made container: %w", err)
	}
	return nil
}

// ended is a container whose end is recorded; its task may be left of a crash right after that.
func (r *Runtime) ended(c *container, task bool) {
	r.view.put(c)
	if !task {
		return
	}
	copied := *c
	r.spawn(func(ctx context.Context) { r.dropTask(ctx, copied) })
}

// running takes what has a task into the view. An error is of the container's log alone.
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
