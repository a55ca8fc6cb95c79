package fakeruntime

import (
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

func (h *Host) updateResources(id, specResources string, to *specs.LinuxResources) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.containers[id]
	if c == nil {
		return fmt.Errorf("container %.12s: %w", id, runtime.ErrNotFound)
	}
	if c.c.State != runtime.Running {
		return nil
	}
	var limits specs.LinuxResources
	if c.c.Resources != nil {
		limits = *c.c.Resources
	}
	if to.CPU != nil {
		cpu := specs.LinuxCPU{}
		if limits.CPU != nil {
			cpu = *limits.CPU
		}
		replace(&cpu.Shares, to.CPU.Shares)
		replace(&cpu.Quota, to.CPU.Quota)
		replace(&cpu.Period, to.CPU.Period)
		limits.CPU = &cpu
	}
	if to.Memory != nil {
		memory := specs.LinuxMemory{}
		if limits.Memory != nil {
			memory = *limits.Memory
		}
		replace(&memory.Limit, to.Memory.Limit)
		replace(&memory.Swap, to.Memory.Swap)
		limits.Memory = &memory
	}
	c.c.Resources, c.c.SpecResources = &limits, specResources
	h.notify(c.config.Pod.UID)
	return nil
}

func replace[T any](field **T, value *T) {
	if value != nil {
		*field = value
	}
}
