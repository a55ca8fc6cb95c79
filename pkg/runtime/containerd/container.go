package containerd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"syscall"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/pkg/hostfs"
	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/sleep"
)

// startErrorCode is the exit code of what never ran, as kubelet reports it.
const startErrorCode = 128

// launch is one container on its way from record to running task.
type launch struct {
	record  containers.Container
	handler string
	spec    *specs.Spec
	image   *image // whose layers are the root; nil: the spec names a folder
	output  runtime.Output
	volumes []runtime.ImageVolume
	tty     bool
	pid     uint32
}

// startError is why a container's process could not be started: the container is to blame, not the
// runtime.
type startError struct{ error }

// StartContainer creates and starts one attempt. What exists of it is adopted: a record is reused,
// a created task started, a running one returned as it is. A container whose process cannot be
// started is returned Exited with its StartError.
//
// The work goes on when ctx ends: containerd takes long to recover from a creation that is
// cancelled half way. The next call for the container waits for it.
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
		return runtime.Container{}, fmt.Errorf("starting container %q: the agent is ending: %w", config.Name, runtime.ErrUnavailable)
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

func (r *Runtime) startContainer(ctx context.Context, id string, config runtime.ContainerConfig) error {
	img, err := r.images.byID(ctx, config.Image.ID)
	if err != nil {
		return err
	}
	digest, err := r.repoDigest(ctx, img, config.ImageRef)
	if err != nil {
		return err
	}
	s := streams{config.Stdin, config.StdinOnce, config.TTY}
	c := &container{ref: config.Pod, streams: s, c: runtime.Container{
		ID: id, Name: config.Name, Attempt: config.Attempt, SandboxID: config.SandboxID, State: runtime.Created,
		Image: config.ImageRef, ImageID: config.Image.ID, CreatedAt: r.c.Now(), Recorded: runtime.Recorded{ImageDigest: digest, StopSignal: config.StopSignal},
		SpecHash: config.SpecHash, Sizes: config.Sizes, LogPath: config.LogPath, MessagePath: config.MessagePath,
	}}
	l := launch{
		record:  containers.Container{ID: id, Labels: labelsOf(config, digest, img.target.Digest.String()), Image: img.name},
		handler: config.RuntimeHandler, spec: config.Spec, image: img,
		output: r.outputOf(config.Pod, c.c, s, false), tty: config.TTY,
		volumes: config.ImageVolumes,
	}
	err = r.launch(ctx, c, &l)
	var failed startError
	if errors.As(err, &failed) {
		r.recordStartError(ctx, id, failed)
		return nil
	}
	return err
}

// launch takes each step that is not taken yet.
func (r *Runtime) launch(ctx context.Context, c *container, l *launch) error {
	if err := r.create(ctx, c, l); err != nil {
		return err
	}
	if err := r.startTask(ctx, l); err != nil {
		return err
	}
	now := r.c.Now()
	r.noteStart(l.record.ID, now)
	r.view.with(l.record.ID, func(c *container) bool {
		if c.c.State == runtime.Created {
			c.c.State, c.c.Pid, c.c.StartedAt = runtime.Running, int(l.pid), now
			c.hold()
		}
		return true
	})
	if l.output.ID != "" {
		// The task runs: whatever becomes of this call, its streams are to end with it.
		if err := r.c.Pump.Seal(context.WithoutCancel(ctx), l.record.ID); err != nil {
			r.c.Logger.Warn("container's streams cannot be sealed", "container", l.record.ID, "err", err)
		}
	}
	r.watchExit(l.record.ID)
	r.spawn(func(ctx context.Context) { _ = r.record(ctx, l.record.ID, map[string]string{labelStarted: stamp(now)}) })
	return nil
}

// create makes record, snapshot and task. The record comes before the snapshot, which is safe from
// garbage collection from its first moment by that.
func (r *Runtime) create(ctx context.Context, c *container, l *launch) error {
	c.c.Resources = resourcesOf(l.spec)
	c.cgroup = cgroupOf(l.spec)
	unlock, err := r.locks.lock(ctx, shimKey(c))
	if err != nil {
		return err
	}
	defer unlock()
	c.group = r.view.group(c)
	l.spec = grouped(l.spec, c.group)
	r.view.put(c)
	err = r.openStreams(ctx, l)
	if err == nil {
		err = r.createRecord(ctx, l)
	}
	if err != nil {
		r.abandon(ctx, l)
		return err
	}
	var root []mount.Mount
	if l.image != nil {
		if root, err = r.prepareRoot(ctx, l); err != nil {
			return err
		}
		if err := r.fillVolumes(ctx, l); err != nil {
			return err
		}
	}
	if err := r.createTask(ctx, l, root); err != nil {
		return err
	}
	r.view.with(l.record.ID, func(c *container) bool { c.tasked = true; return false })
	return nil
}

// grouped puts the container into its pod's shim, without touching the caller's spec.
func grouped(spec *specs.Spec, group string) *specs.Spec {
	copied := *spec
	copied.Annotations = maps.Clone(spec.Annotations)
	if copied.Annotations == nil {
		copied.Annotations = map[string]string{}
	}
	copied.Annotations[groupAnnotation] = group
	return &copied
}

// abandon undoes the little that exists before the record does.
func (r *Runtime) abandon(ctx context.Context, l *launch) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	if l.output.ID != "" {
		if err := r.c.Pump.Remove(ctx, l.output); err != nil {
			r.c.Logger.Warn("container's streams cannot be left", "container", l.record.ID, "err", err)
		}
	}
	_ = os.RemoveAll(r.ioDir(l.record.ID))
	r.view.drop(l.record.ID)
}

func resourcesOf(s *specs.Spec) *specs.LinuxResources {
	if s.Linux == nil {
		return nil
	}
	return s.Linux.Resources
}

func cgroupOf(s *specs.Spec) string {
	if s.Linux == nil {
		return ""
	}
	return s.Linux.CgroupsPath
}

// openStreams makes the pipes and has the pump wait at their other end.
func (r *Runtime) openStreams(ctx context.Context, l *launch) error {
	if l.output.ID == "" {
		return nil
	}
	if err := makeFIFOs(r.ioDir(l.record.ID), l.output.Stdin, l.output.Stdout, l.output.Stderr); err != nil {
		return err
	}
	return r.c.Pump.Open(ctx, l.output)
}

func makeFIFOs(dir string, paths ...string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making pipes: %w", err)
	}
	for _, p := range paths {
		if p == "" {
			continue
		}
		if err := unix.Mkfifo(p, 0o600); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("making pipe %q: %w", p, err)
		}
	}
	return nil
}

func (r *Runtime) createRecord(ctx context.Context, l *launch) error {
	handler, err := r.handler(l.handler)
	if err != nil {
		return err
	}
	l.record.Runtime = handler
	if l.record.Spec, err = typeurl.MarshalAny(l.spec); err != nil {
		return fmt.Errorf("encoding the spec: %w", err)
	}
	if l.image != nil {
		l.record.Snapshotter, l.record.SnapshotKey = r.c.Snapshotter, l.record.ID
	}
	if _, err := r.store().Create(ctx, l.record); err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("creating the record: %w", native(err))
	}
	return nil
}

// handler is how containerd is told to run containers of a RuntimeClass handler.
func (r *Runtime) handler(name string) (containers.RuntimeInfo, error) {
	h, ok := r.c.Handlers[name]
	if !ok && name != "" {
		return containers.RuntimeInfo{}, fmt.Errorf("no runtime handler %q is configured: name it in containerd.handlers of NodeAgentConfiguration", name)
	}
	setDefault(&h.Type, runcType+"v2")
	if !strings.HasPrefix(h.Type, runcType) {
		// Another shim refuses options of a type that it does not know; it has a configuration of
		// its own.
		if h.Binary != "" {
			return containers.RuntimeInfo{}, fmt.Errorf("runtime handler %q: a shim of type %q takes no binary, only those of %s* do: leave binary out of containerd.handlers",
				name, h.Type, runcType)
		}
		return containers.RuntimeInfo{Name: h.Type}, nil
	}
	options, err := typeurl.MarshalAny(&runcoptions.Options{BinaryName: h.Binary, Root: h.Root, SystemdCgroup: r.c.SystemdCgroup})
	if err != nil {
		return containers.RuntimeInfo{}, err
	}
	return containers.RuntimeInfo{Name: h.Type, Options: options}, nil
}

// runcType begins the names of the shims that run containers by runc, or by a program with runc's
// command line.
const runcType = "io.containerd.runc."

// prepareRoot makes the container's writable layer. An image that was imported without being
// unpacked is unpacked here.
func (r *Runtime) prepareRoot(ctx context.Context, l *launch) ([]mount.Mount, error) {
	sn, key := r.snapshotter(), l.record.SnapshotKey
	for try := 0; ; try++ {
		m, err := sn.Prepare(ctx, key, l.image.chain, snapshots.WithLabels(map[string]string{labelUID: l.record.Labels[labelUID]}))
		switch {
		case err == nil:
			return m, nil
		case errdefs.IsAlreadyExists(err):
			if m, err = sn.Mounts(ctx, key); err == nil {
				return m, nil
			}
			return nil, fmt.Errorf("reusing the root file system: %w", native(err))
		case errdefs.IsNotFound(err) && try == 0:
			if err := r.images.unpack(ctx, l.image); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("preparing the root file system: %w", native(err))
		}
	}
}

// recordStartError makes a container that never ran an Exited one.
func (r *Runtime) recordStartError(ctx context.Context, id string, failed startError) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	c, _ := r.view.find(id)
	if err := r.deleteTask(ctx, &c); err != nil {
		r.c.Logger.Warn("task that did not start cannot be deleted", "container", id, "err", err)
	}
	if err := r.c.Pump.Seal(ctx, id); err != nil {
		r.c.Logger.Warn("container's streams cannot be sealed", "container", id, "err", err)
	}
	now := r.c.Now()
	labels := map[string]string{
		labelFinished: stamp(now), labelExitCode: fmt.Sprint(startErrorCode), labelStartError: labelText(labelStartError, failed.Error()),
	}
	if err := r.setLabels(ctx, id, labels); err != nil {
		r.spawn(func(ctx context.Context) { _ = r.record(ctx, id, labels) })
	}
	r.view.with(id, func(c *container) bool {
		c.exiting = true
		c.c.State, c.c.ExitCode, c.c.StartError, c.c.FinishedAt = runtime.Exited, startErrorCode, failed.Error(), now
		return true
	})
}

// setLabels adds labels to a container's record.
func (r *Runtime) setLabels(ctx context.Context, id string, labels map[string]string) error {
	paths := make([]string, 0, len(labels))
	for key := range labels {
		paths = append(paths, "labels."+key)
	}
	if _, err := r.store().Update(ctx, containers.Container{ID: id, Labels: labels}, paths...); err != nil {
		return fmt.Errorf("recording on container %.12s: %w", id, native(err))
	}
	return nil
}

// record adds labels to a container's record, again and again until they are there: containerd's
// disk may be full, or itself away. Only a container that is gone, and the end of the agent, are
// errors.
func (r *Runtime) record(ctx context.Context, id string, labels map[string]string) error {
	about := r.view.same(id)
	for wait := minAgain; ; wait = min(2*wait, maxAgain) {
		err := r.setLabels(ctx, id, labels)
		if err == nil || errors.Is(err, runtime.ErrNotFound) || ctx.Err() != nil {
			return err
		}
		if wait == minAgain {
			r.c.Logger.Warn("What became of a container could not be recorded, trying again", "container", id, "err", err)
		}
		if err := sleep.For(ctx, wait); err != nil {
			return err
		}
		if !about() { // removed meanwhile; ids return
			return runtime.ErrNotFound
		}
	}
}

// Signal never waits for the container to end. Signalling what does not run is no error.
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

// WritableBytes is how much of the disk is the container's own: what it has written to its root
// file system, and the volumes that its image declares. It is 0 for one that has none of them any
// more.
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
