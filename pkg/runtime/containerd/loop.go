package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/typeurl/v2"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// Retry delays of the connection to containerd.
const (
	minRetry = 100 * time.Millisecond
	maxRetry = 2 * time.Second
)

// Run keeps the view current until ctx ends. When it returns, no goroutine of the Runtime is left; containers run on.
func (r *Runtime) Run(ctx context.Context) error {
	r.mu.Lock()
	r.run = ctx
	r.mu.Unlock()
	defer func() {
		r.workers.Wait()
		_ = r.client.Close()
	}()
	retry := minRetry
	for ctx.Err() == nil {
		began := r.c.Now()
		err := r.connection(ctx)
		if ctx.Err() != nil {
			break
		}
		if r.view.current() {
			r.c.Logger.Warn("connection to containerd is lost", "address", r.c.Address, "err", err)
		} else if retry == minRetry {
			r.c.Logger.Warn("containerd cannot be reached yet", "address", r.c.Address, "err", err)
		}
		r.view.offline()
		if r.c.Now().Sub(began) > 10*time.Second {
			retry = minRetry
		}
		_ = pause(ctx, retry)
		retry = min(2*retry, maxRetry)
	}
	r.view.offline()
	return nil
}

// connection lives from one connect to the loss of the event stream. It subscribes before it lists, so that nothing falls
// between the two.
func (r *Runtime) connection(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	filter := "namespace==" + r.c.Namespace
	envelopes, errs := r.client.EventService().Subscribe(ctx,
		filter+`,topic~="^/tasks/(exit|oom)$"`, filter+`,topic=="/containers/delete"`, filter+`,topic~="^/images/"`)
	if err := r.reconcile(ctx); err != nil {
		return err
	}
	r.view.online()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-errs:
			if err == nil {
				err = errors.New("event stream ended")
			}
			return err
		case e := <-envelopes:
			if e == nil {
				return errors.New("event stream ended")
			}
			r.event(e)
		}
	}
}

func (r *Runtime) event(e *events.Envelope) {
	if strings.HasPrefix(e.Topic, "/images/") {
		r.images.stale()
		return
	}
	v, err := typeurl.UnmarshalAny(e.Event)
	if err != nil {
		r.c.Logger.Warn("containerd's event cannot be read", "topic", e.Topic, "err", err)
		return
	}
	switch e := v.(type) {
	case *eventsapi.TaskExit:
		if e.ID != e.ContainerID {
			return // of an exec
		}
		if _, ok := r.view.find(e.ContainerID); ok {
			r.spawn(func(ctx context.Context) { r.exited(ctx, e.ContainerID, int(e.ExitStatus), e.ExitedAt.AsTime()) })
		}
	case *eventsapi.TaskOOM:
		r.view.with(e.ContainerID, func(c *container) bool { c.oom = true; return false })
	case *eventsapi.ContainerDelete:
		if c, ok := r.view.find(e.ID); ok && !c.busy {
			r.view.drop(e.ID)
		}
	}
}

// reconcile makes the view what the host holds.
func (r *Runtime) reconcile(ctx context.Context) error {
	version, err := r.client.Version(ctx)
	if err != nil {
		return native(err)
	}
	records, err := r.store().List(ctx, fmt.Sprintf("labels.%q", labelUID))
	if err != nil {
		return fmt.Errorf("listing containers: %w", native(err))
	}
	listed, err := r.tasks().List(ctx, &tasksapi.ListTasksRequest{})
	if err != nil {
		return fmt.Errorf("listing tasks: %w", native(err))
	}
	tasks := make(map[string]*tasktypes.Process, len(listed.Tasks))
	for _, t := range listed.Tasks {
		tasks[t.ID] = t
	}
	r.mu.Lock()
	r.version = "containerd://" + strings.TrimPrefix(version.Version, "v")
	r.mu.Unlock()
	if err := r.loadSandboxes(); err != nil {
		return err
	}
	known := map[string]bool{}
	for _, record := range records {
		known[record.ID] = true
		r.adopt(ctx, record, tasks[record.ID])
	}
	r.dropUnknown(known)
	r.checkReapers()
	r.images.stale()
	r.sweepExecs(ctx, tasks)
	return nil
}

// loadSandboxes reads the records once; from then on the view is what writes them.
func (r *Runtime) loadSandboxes() error {
	if r.view.loaded() {
		return nil
	}
	all, err := r.readSandboxes()
	if err != nil {
		return err
	}
	for _, s := range all {
		if _, ok := r.view.sandbox(s.Config.Pod.UID); !ok {
			r.view.putSandbox(s)
		}
	}
	return nil
}

// adopt takes one container into the view, and sees to it that its end is noticed and its output goes on.
func (r *Runtime) adopt(ctx context.Context, record containers.Container, task *tasktypes.Process) {
	log := r.c.Logger.With("container", record.ID)
	ref, c, s, err := fromRecord(record)
	if err != nil {
		log.Warn("container is left alone", "err", err)
		return
	}
	if have, ok := r.view.find(record.ID); ok && have.busy {
		return
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
		next.watched, next.oom, next.exiting = have.watched, have.oom, next.exiting || have.exiting
		if next.c.StartedAt.IsZero() {
			next.c.StartedAt = have.c.StartedAt
		}
	}
	r.place(ctx, next, task)
}

// place decides by the task what becomes of an adopted container.
func (r *Runtime) place(ctx context.Context, c *container, task *tasktypes.Process) {
	id := c.c.ID
	status := tasktypes.Status(-1)
	if task != nil {
		status = task.Status
	}
	switch {
	case c.c.State == runtime.Exited:
		r.ended(c, task != nil)
	case c.exiting: // it is being recorded just now
	case status == tasktypes.Status_RUNNING || status == tasktypes.Status_PAUSED || status == tasktypes.Status_PAUSING:
		c.c.State, c.c.Pid = runtime.Running, int(task.Pid)
		r.running(ctx, c)
	case status == tasktypes.Status_STOPPED:
		c.c.State = runtime.Running // until its end is recorded
		r.running(ctx, c)
		r.spawn(func(ctx context.Context) { r.exited(ctx, id, int(task.ExitStatus), task.ExitedAt.AsTime()) })
	case status == tasktypes.Status_UNKNOWN:
		c.c.State = runtime.Unknown
		r.running(ctx, c)
	case task == nil && !c.c.StartedAt.IsZero():
		c.c.State = runtime.Unknown // until its end is recorded
		r.view.put(c)
		r.spawn(func(ctx context.Context) { r.lost(ctx, id) })
	default:
		// Made by an agent that died before it was started, or by a call that timed out. Nothing of it ran.
		if err := r.removeContainer(ctx, id); err != nil {
			r.c.Logger.Warn("half-made container cannot be removed yet", "container", id, "err", err)
			r.view.put(c)
		}
	}
}

// ended is a container whose end is recorded; its task may be left of a crash right after that.
func (r *Runtime) ended(c *container, task bool) {
	r.view.put(c)
	if !task {
		return
	}
	copied := *c
	r.spawn(func(ctx context.Context) {
		if err := r.deleteTask(ctx, &copied); err != nil && ctx.Err() == nil {
			r.c.Logger.Warn("ended task cannot be deleted", "container", copied.c.ID, "err", err)
		}
	})
}

func (r *Runtime) running(ctx context.Context, c *container) {
	if c.c.StartedAt.IsZero() {
		c.c.StartedAt = c.c.CreatedAt
	}
	if c.c.Name != "" {
		if err := r.c.Pump.Open(ctx, r.outputOf(c.ref, c.c, c.streams, true)); err != nil {
			r.c.Logger.Warn("container's log cannot be continued", "container", c.c.ID, "err", err)
		}
	}
	r.view.put(c)
	r.view.with(c.c.ID, func(c *container) bool { c.hold(); return false })
	r.watchExit(c.c.ID)
}

// dropUnknown forgets containers that somebody removed while nobody listened.
func (r *Runtime) dropUnknown(known map[string]bool) {
	r.view.mu.Lock()
	var gone []string
	for id, c := range r.view.containers {
		if !known[id] && !c.busy {
			gone = append(gone, id)
		}
	}
	r.view.mu.Unlock()
	for _, id := range gone {
		r.view.drop(id)
	}
}

// checkReapers makes sandboxes unready whose shared PID namespace has no process any more.
func (r *Runtime) checkReapers() {
	r.view.mu.Lock()
	defer r.view.mu.Unlock()
	for uid, s := range r.view.sandboxes {
		if s.Sandbox.Namespaces.PID == "" || !s.Sandbox.Ready {
			continue
		}
		if c := r.view.containers[s.Sandbox.ID]; c == nil || c.c.State == runtime.Exited {
			s.Sandbox.Ready = false
			r.view.notify(uid)
		}
	}
}

// sweepExecs ends the processes that an earlier agent ran in containers: whoever asked for them is gone with it.
func (r *Runtime) sweepExecs(ctx context.Context, tasks map[string]*tasktypes.Process) {
	root := filepath.Join(r.c.RunDir, "exec")
	entries, err := os.ReadDir(root)
	if err != nil {
		return
	}
	for _, e := range entries {
		id, execID, ok := strings.Cut(e.Name(), ".")
		if !ok || r.execs.has(e.Name()) {
			continue
		}
		if tasks[id] != nil {
			r.endExec(ctx, id, execID)
		}
		_ = os.RemoveAll(filepath.Join(root, e.Name()))
	}
}
