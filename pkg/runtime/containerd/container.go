package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs"

	"github.com/nodeagent/nodeagent/pkg/hostfs"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// StartContainer creates and starts one attempt. It continues from what exists: it reuses a record,
// starts a created task, and returns a running container as it is. A container whose process cannot
// be started is returned Exited with its StartError.
//
// The start goes on when ctx ends, because containerd takes long to recover from a cancelled
// creation. The next call for the container waits for it.
func (r *Runtime) StartContainer(ctx context.Context, config runtime.ContainerConfig) (runtime.Container, error) {
	if err := r.view.wait(ctx); err != nil {
		return runtime.Container{}, err
	}
	id := config.ID()
	unlock, err := r.locks.lock(ctx, containerKey(id))
	if err != nil {
		return runtime.Container{}, err
	}
	if have, ok := r.view.find(id); ok && have.c.State != runtime.Created || ctx.Err() != nil {
		unlock()
		return have.c, ctx.Err()
	}
	done := make(chan error, 1)
	spawned := r.spawn(func(ctx context.Context) {
		defer unlock()
		ctx, cancel := context.WithTimeout(ctx, launchTime)
		defer cancel()
		done <- r.startContainer(ctx, id, config)
	})
	if !spawned {
		unlock()
		return runtime.Container{}, fmt.Errorf("starting container %q: the agent is shutting down: %w", config.Name, runtime.ErrUnavailable)
	}
	select {
	case err = <-done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return runtime.Container{}, fmt.Errorf("starting container %q: %w", config.Name, err)
	}
	have, _ := r.view.find(id)
	return have.c, nil
}

// Signal does not wait for the container to exit. Signalling a container that does not run is no
// error.
func (r *Runtime) Signal(ctx context.Context, id string, sig syscall.Signal) error {
	if err := r.view.wait(ctx); err != nil {
		return err
	}
	c, ok := r.view.find(id)
	if !ok || c.c.State == runtime.Exited || c.c.State == runtime.Created {
		return nil
	}
	_, err := r.tasks().Kill(ctx, &tasksapi.KillRequest{ContainerID: id, Signal: uint32(sig)})
	if err = native(err); err == nil || errors.Is(err, runtime.ErrNotFound) {
		return nil
	}
	return fmt.Errorf("signalling container %.12s: %w", id, err)
}

// WritableBytes returns the disk usage in bytes of the container's writable layer and its image
// volumes; 0 if it has neither.
func (r *Runtime) WritableBytes(ctx context.Context, id string) (int64, error) {
	volumes, err := hostfs.DiskUsage(ctx, r.VolumeDir(id))
	if err != nil {
		return 0, fmt.Errorf("measuring the image's volumes of container %.12s: %w", id, err)
	}
	usage, err := r.snapshotter().Usage(ctx, id)
	if errdefs.IsNotFound(err) {
		return volumes, nil
	}
	if err != nil {
		return 0, fmt.Errorf("measuring the writable layer of container %.12s: %w", id, native(err))
	}
	return usage.Size + volumes, nil
}

// RemoveContainer removes task, record, snapshot, pipes and log; a running container is killed
// first.
func (r *Runtime) RemoveContainer(ctx context.Context, id string) error {
	if err := r.view.wait(ctx); err != nil {
		return err
	}
	unlock, err := r.locks.lock(ctx, containerKey(id))
	if err != nil {
		return err
	}
	defer unlock()
	if err := r.removeContainer(ctx, id); err != nil {
		return fmt.Errorf("removing container %.12s: %w", id, err)
	}
	return nil
}

func (r *Runtime) removeContainer(ctx context.Context, id string) error {
	if err := r.endTask(ctx, id); err != nil {
		return err
	}
	if c, _ := r.view.find(id); c.c.LogPath != "" {
		if err := r.c.Pump.Remove(ctx, r.outputOf(c.ref, c.c, c.streams, true)); err != nil {
			return err
		}
	}
	if err := r.store().Delete(ctx, id); err != nil && !errdefs.IsNotFound(err) {
		return native(err)
	}
	if err := r.snapshotter().Remove(ctx, id); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("removing the root file system: %w", native(err))
	}
	if err := r.removeVolumes(id); err != nil {
		return err
	}
	if err := os.RemoveAll(r.ioDir(id)); err != nil {
		return err
	}
	r.view.drop(id)
	return nil
}

// abandon removes pipes and log of a container whose record could not be created.
func (r *Runtime) abandon(ctx context.Context, l *launch) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	if l.output.ID != "" {
		if err := r.c.Pump.Remove(ctx, l.output); err != nil {
			r.c.Logger.Warn("Container's streams cannot be removed", "container", l.record.ID, "err", err)
		}
	}
	_ = os.RemoveAll(r.ioDir(l.record.ID))
	r.view.drop(l.record.ID)
}
