package containerd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/sleep"
)

// shimPatience is how long a task is created anew while its pod's shim is ending or an earlier
// creation is cleaned up, for which containerd takes up to 10 s.
const shimPatience = 20 * time.Second

// ociRefusal is in every error of the program that makes containers (runc and its like): the spec
// is to blame, or the image.
const ociRefusal = "OCI runtime"

// launchTime bounds a launch whose caller has gone.
const launchTime = 4 * time.Minute

func (r *Runtime) createTask(ctx context.Context, l *launch, root []mount.Mount) error {
	req := &tasksapi.CreateTaskRequest{
		ContainerID: l.record.ID, Terminal: l.tty,
		Stdin: l.output.Stdin, Stdout: l.output.Stdout, Stderr: l.output.Stderr,
	}
	for _, m := range labelled(root, l.spec) {
		req.Rootfs = append(req.Rootfs, &types.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	began := r.c.Now()
	for try := 0; ; try++ {
		_, err := r.tasks().Create(ctx, req)
		err = native(err)
		if err == nil || errdefs.IsAlreadyExists(err) {
			return nil
		}
		err = fmt.Errorf("failed to create containerd task: %w", err)
		switch {
		case strings.Contains(err.Error(), ociRefusal):
			return blame(ctx, err)
		case !shimEnding(err):
			return err
		}
		if r.c.Now().Sub(began) > shimPatience {
			return err
		}
		if err := sleep.For(ctx, 20*time.Millisecond<<min(try, 4)); err != nil {
			return err
		}
	}
}

// labelled gives the root file system the SELinux label of the container's files.
func labelled(root []mount.Mount, s *specs.Spec) []mount.Mount {
	if s.Linux == nil || s.Linux.MountLabel == "" {
		return root
	}
	root = slices.Clone(root)
	for i := range root {
		root[i].Options = append(slices.Clone(root[i].Options), fmt.Sprintf("context=%q", s.Linux.MountLabel))
	}
	return root
}

// shimEnding says that containerd met the pod's previous shim on its way out (the last container of
// a pod takes its shim with it, and the next one comes at the same address), or the folder of a
// creation that was cancelled and is being cleaned up.
func shimEnding(err error) bool {
	text := err.Error()
	for _, sign := range []string{
		"ttrpc: closed", "ttrpc: server closed", "connection refused", "connect: no such file", "failed to start shim",
		"shim disconnected", ": file exists",
		// a path of the folder that is being cleaned up while we make it anew
		"io.containerd.runtime.v2.task/",
	} {
		if strings.Contains(text, sign) {
			return true
		}
	}
	return false
}

// blame tells errors of the container from those of the runtime and of the caller.
func blame(ctx context.Context, err error) error {
	if ctx.Err() != nil || errors.Is(err, runtime.ErrUnavailable) || errdefs.IsCanceled(err) || errdefs.IsDeadlineExceeded(err) {
		return err
	}
	return startError{err}
}

func (r *Runtime) startTask(ctx context.Context, l *launch) error {
	resp, err := r.tasks().Start(ctx, &tasksapi.StartRequest{ContainerID: l.record.ID})
	if err == nil {
		l.pid = resp.Pid
		return nil
	}
	// It may run already: an earlier call got this far before its time was up.
	got, gerr := r.tasks().Get(ctx, &tasksapi.GetRequest{ContainerID: l.record.ID})
	if gerr == nil && got.Process.Status != tasktypes.Status_CREATED && got.Process.Status != tasktypes.Status_UNKNOWN {
		l.pid = got.Process.Pid
		return nil
	}
	return blame(ctx, fmt.Errorf("failed to start containerd task: %w", native(err)))
}

// containerKey locks all that starts, adopts and removes a container.
func containerKey(id string) string { return "container/" + id }

// shimKey locks what a pod's shim does not do well at the same time: it ends with its last task,
// also while it is creating the next one.
func shimKey(c *container) string {
	if c.c.SandboxID == "" {
		return "shim/" + c.c.ID
	}
	return "shim/" + c.c.SandboxID
}

// deleteTask deletes an ended task, and with a pod's last one its shim.
func (r *Runtime) deleteTask(ctx context.Context, c *container) error {
	unlock, err := r.locks.lock(ctx, shimKey(c))
	if err != nil {
		return err
	}
	defer unlock()
	_, err = r.tasks().Delete(ctx, &tasksapi.DeleteTaskRequest{ContainerID: c.c.ID})
	if err = native(err); err == nil || errors.Is(err, runtime.ErrNotFound) {
		return nil
	}
	return err
}

// endTask kills and deletes the task, if there is one. Nobody else records its end from here on.
func (r *Runtime) endTask(ctx context.Context, id string) error {
	ended := false
	c := container{c: runtime.Container{ID: id}}
	r.view.with(id, func(have *container) bool {
		ended, have.exiting = have.exiting, true
		c = *have
		return false
	})
	if !ended {
		_, err := r.tasks().Kill(ctx, &tasksapi.KillRequest{ContainerID: id, Signal: uint32(unix.SIGKILL), All: true})
		if err = native(err); errors.Is(err, runtime.ErrUnavailable) {
			return fmt.Errorf("killing: %w", err)
		}
		if err == nil {
			if _, err := r.tasks().Wait(ctx, &tasksapi.WaitRequest{ContainerID: id}); errors.Is(native(err), runtime.ErrUnavailable) || ctx.Err() != nil {
				return fmt.Errorf("waiting for the end: %w", native(err))
			}
		}
	}
	// An exit that is recorded just now deletes the task as well; whoever comes second may see the
	// shim go.
	for wait := 2 * time.Millisecond; ; wait *= 2 {
		err := r.deleteTask(ctx, &c)
		if err == nil {
			return nil
		}
		if wait > time.Second || errors.Is(err, runtime.ErrUnavailable) {
			return fmt.Errorf("deleting the task: %w", err)
		}
		if err := sleep.For(ctx, wait); err != nil {
			return err
		}
	}
}
