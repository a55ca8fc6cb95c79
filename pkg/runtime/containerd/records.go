package containerd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"

	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/sleep"
)

func (r *Runtime) createRecord(ctx context.Context, l *launch) error {
	info, err := r.runtimeInfo(l.handler)
	if err != nil {
		return err
	}
	l.record.Runtime = info
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

// setLabels adds labels to a container's record.
func (r *Runtime) setLabels(ctx context.Context, id string, labels map[string]string) error {
	paths := make([]string, 0, len(labels))
	for key := range labels {
		paths = append(paths, "labels."+key)
	}
	if _, err := r.store().Update(ctx, containers.Container{ID: id, Labels: labels}, paths...); err != nil {
		return fmt.Errorf("updating labels of container %.12s: %w", id, native(err))
	}
	return nil
}

// record adds labels to a container's record and retries until it succeeds, since containerd's disk
// may be full or containerd down. It fails only if the container is gone or the agent shuts down.
func (r *Runtime) record(ctx context.Context, id string, labels map[string]string) error {
	same := r.view.same(id)
	for wait := minAgain; ; wait = min(2*wait, maxAgain) {
		err := r.setLabels(ctx, id, labels)
		if err == nil || errors.Is(err, runtime.ErrNotFound) || ctx.Err() != nil {
			return err
		}
		if wait == minAgain {
			r.c.Logger.Warn("Container's state cannot be recorded, trying again", "container", id, "err", err)
		}
		if err := sleep.For(ctx, wait); err != nil {
			return err
		}
		if !same() { // removed meanwhile; ids are reused
			return runtime.ErrNotFound
		}
	}
}

// minAgain and maxAgain bound the growing delay before a failed call is tried again.
const (
	minAgain = 200 * time.Millisecond
	maxAgain = 30 * time.Second
)

// recorded lists the records of all containers of this agent.
func (r *Runtime) recorded(ctx context.Context) ([]containers.Container, error) {
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	records, err := r.store().List(ctx, fmt.Sprintf("labels.%q", labelUID))
	if err != nil {
		return nil, fmt.Errorf("listing containers: %w", native(err))
	}
	return records, nil
}
