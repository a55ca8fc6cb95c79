package containerd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// startErrorCode is the exit code of a container that never ran, as kubelet reports it.
const startErrorCode = 128

// launch carries one container from record to running task.
type launch struct {
	record  containers.Container
	handler string
	spec    *specs.Spec
	image   *image // its layers are the root file system; nil: the spec names a folder
	output  runtime.Output
	volumes []runtime.ImageVolume
	tty     bool
	pid     uint32
}

// startError marks an error that the container caused, not the runtime.
type startError struct{ error }

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
		SpecHash: config.SpecHash, SpecResources: config.SpecResources, LogPath: config.LogPath, MessagePath: config.MessagePath,
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

// launch performs the steps that are not done yet.
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
		// The task runs. Seal its streams even if ctx has ended, so that they end with it.
		if err := r.c.Pump.Seal(context.WithoutCancel(ctx), l.record.ID); err != nil {
			r.c.Logger.Warn("Container's streams cannot be sealed", "container", l.record.ID, "err", err)
		}
	}
	r.watchExit(l.record.ID)
	r.spawn(func(ctx context.Context) { _ = r.record(ctx, l.record.ID, map[string]string{labelStarted: stamp(now)}) })
	return nil
}

// create makes record, snapshot and task. The record comes first: it protects the snapshot from
// garbage collection.
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

// grouped returns a copy of the spec with the annotation of the pod's shim.
func grouped(spec *specs.Spec, group string) *specs.Spec {
	copied := *spec
	copied.Annotations = maps.Clone(spec.Annotations)
	if copied.Annotations == nil {
		copied.Annotations = map[string]string{}
	}
	copied.Annotations[groupAnnotation] = group
	return &copied
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

// openStreams creates the pipes and lets the log pump open them.
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

// prepareRoot creates the container's writable layer, and unpacks the image first if it was
// imported without unpacking.
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

// recordStartError marks a container that never ran as Exited.
func (r *Runtime) recordStartError(ctx context.Context, id string, failed startError) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	c, _ := r.view.find(id)
	if err := r.deleteTask(ctx, &c); err != nil {
		r.c.Logger.Warn("Task that failed to start cannot be deleted", "container", id, "err", err)
	}
	if err := r.c.Pump.Seal(ctx, id); err != nil {
		r.c.Logger.Warn("Container's streams cannot be sealed", "container", id, "err", err)
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

// launchTime bounds a container start whose caller has gone.
const launchTime = 4 * time.Minute
