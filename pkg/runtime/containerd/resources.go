package containerd

import (
	"context"
	"errors"
	"fmt"
	"maps"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// UpdateResources implements runtime.Resizer. It changes the task before the record: after a crash
// in between, the record has the old limits and the planner asks for the same change again.
func (r *Runtime) UpdateResources(ctx context.Context, id, specResources string, to *specs.LinuxResources) error {
	if err := r.view.wait(ctx); err != nil {
		return err
	}
	unlock, err := r.locks.lock(ctx, containerKey(id))
	if err != nil {
		return err
	}
	defer unlock()
	c, ok := r.view.find(id)
	switch {
	case !ok:
		return fmt.Errorf("updating resources of container %.12s: %w", id, runtime.ErrNotFound)
	case c.c.State != runtime.Running:
		return nil
	}
	if err := affordable(c, to); err != nil {
		return err
	}
	merged := mergedResources(c.c.Resources, to)
	if err := r.updateTask(ctx, id, to); err != nil {
		return fmt.Errorf("updating resources of container %q: %w", c.c.Name, err)
	}
	if err := r.recordResources(ctx, id, specResources, merged); err != nil {
		return fmt.Errorf("recording the resources of container %q: %w", c.c.Name, err)
	}
	r.view.with(id, func(c *container) bool {
		c.c.Resources, c.c.SpecResources = merged, specResources
		return true
	})
	return nil
}

// affordable refuses a memory limit below current usage: with cgroup v2 the kernel would kill the
// container. The error text is kubelet's.
func affordable(c container, to *specs.LinuxResources) error {
	if to.Memory == nil || to.Memory.Limit == nil || *to.Memory.Limit <= 0 {
		return nil
	}
	limit := *to.Memory.Limit
	if have := c.c.Resources; have != nil && have.Memory != nil && have.Memory.Limit != nil && limit >= *have.Memory.Limit && *have.Memory.Limit > 0 {
		return nil
	}
	if used, known := memoryUsage(c.cgroup); known && used >= limit {
		return fmt.Errorf("cannot decrease memory limits: attempting to set container %q memory limit (%d) below current usage (%d)",
			c.c.Name, limit, used)
	}
	return nil
}

// mergedResources returns the old limits, replaced by those that to names.
func mergedResources(old, to *specs.LinuxResources) *specs.LinuxResources {
	var merged specs.LinuxResources
	if old != nil {
		merged = *old
	}
	if to.CPU != nil {
		var cpu specs.LinuxCPU
		if merged.CPU != nil {
			cpu = *merged.CPU
		}
		given(&cpu.Shares, to.CPU.Shares)
		given(&cpu.Quota, to.CPU.Quota)
		given(&cpu.Period, to.CPU.Period)
		merged.CPU = &cpu
	}
	if to.Memory != nil {
		var memory specs.LinuxMemory
		if merged.Memory != nil {
			memory = *merged.Memory
		}
		given(&memory.Limit, to.Memory.Limit)
		given(&memory.Swap, to.Memory.Swap)
		merged.Memory = &memory
	}
	if len(to.Unified) > 0 {
		merged.Unified = maps.Clone(merged.Unified)
		if merged.Unified == nil {
			merged.Unified = map[string]string{}
		}
		maps.Copy(merged.Unified, to.Unified)
	}
	return &merged
}

func given[T any](field **T, value *T) {
	if value != nil {
		*field = value
	}
}

// updateTask lets the OCI runtime change the limits. It passes only limits that can change while a
// container runs.
func (r *Runtime) updateTask(ctx context.Context, id string, to *specs.LinuxResources) error {
	limits, err := typeurl.MarshalAny(&specs.LinuxResources{CPU: to.CPU, Memory: to.Memory, Unified: to.Unified})
	if err != nil {
		return fmt.Errorf("encoding the limits: %w", err)
	}
	_, err = r.tasks().Update(ctx, &tasksapi.UpdateTaskRequest{ContainerID: id, Resources: typeurl.MarshalProto(limits)})
	return native(err)
}

// recordResources writes the limits to the record's spec, and the requests and limits of the pod
// spec to a label.
func (r *Runtime) recordResources(ctx context.Context, id, specResources string, to *specs.LinuxResources) error {
	record, err := r.store().Get(ctx, id)
	if err != nil {
		return native(err)
	}
	spec, err := specOf(record)
	if err != nil {
		return err
	}
	if spec.Linux == nil {
		return errors.New("its spec has no linux section")
	}
	spec.Linux.Resources = to
	encoded, err := typeurl.MarshalAny(spec)
	if err != nil {
		return fmt.Errorf("encoding the spec: %w", err)
	}
	changed := containers.Container{ID: id, Spec: encoded, Labels: map[string]string{labelResources: specResources}}
	_, err = r.store().Update(ctx, changed, "spec", "labels."+labelResources)
	return native(err)
}
