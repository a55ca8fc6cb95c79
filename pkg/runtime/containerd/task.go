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

// shimPatience is how long to retry creating a task while the pod's previous shim exits or
// containerd cleans up a cancelled creation, which takes up to 10 s.
const shimPatience = 20 * time.Second

// ociRefusal occurs in every error of the OCI runtime (runc and alike), which the spec or the image
// has caused.
const ociRefusal = "OCI runtime"

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

// labelled adds the container's SELinux label to the root file system's mount options.
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

// shimEnding reports whether containerd hit a transient state: the pod's previous shim is exiting
// (the last container takes the shim with it, and the next one uses the same address), or
// containerd still cleans up the folder of a cancelled creation.
func shimEnding(err error) bool {
	text := err.Error()
	for _, sign := range []string{
		"ttrpc: closed", "ttrpc: server closed", "connection refused", "connect: no such file", "failed to start shim",
		"shim disconnected", ": file exists",
		// the folder that containerd is still cleaning up
		"io.containerd.runtime.v2.task/",
	} {
		if strings.Contains(text, sign) {
			return true
		}
	}
	return false
}

// blame marks an error as the container's fault unless the runtime or the caller caused it.
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
	// It may be running: an earlier call may have started it and timed out.
	got, gerr := r.tasks().Get(ctx, &tasksapi.GetRequest{ContainerID: l.record.ID})
	if gerr == nil && got.Process.Status != tasktypes.Status_CREATED && got.Process.Status != tasktypes.Status_UNKNOWN {
		l.pid = got.Process.Pid
		return nil
	}
	return blame(ctx, fmt.Errorf("failed to start containerd task: %w", native(err)))
}

// deleteTask deletes an exited task. With a pod's last task its shim exits.
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

// endTask kills and deletes the task, if there is one. From then on nobody else records its exit.
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
				return fmt.Errorf("waiting for the exit: %w", native(err))
			}
		}
	}
	// A concurrent recordExit deletes the task too; whoever is second may find the shim exiting.
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
