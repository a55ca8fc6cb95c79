package unit

import (
	"bytes"
	"context"
	"fmt"
	"os"

	"github.com/coreos/go-systemd/v22/dbus"
)

// OwnScope moves a child process into a scope of its own, so that it survives a restart of this
// process's unit whatever KillMode that has. It does nothing without systemd, outside of a unit,
// and for a process in another cgroup.
func OwnScope(ctx context.Context, name, description string, pid int) error {
	if _, err := os.Stat("/run/systemd/system"); err != nil || os.Getenv("INVOCATION_ID") == "" {
		return nil
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return fmt.Errorf("reading the agent's cgroup: %w", err)
	}
	its, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return fmt.Errorf("reading the cgroup of process %d: %w", pid, err)
	}
	if !bytes.Equal(own, its) {
		return nil
	}
	conn, err := dbus.NewSystemConnectionContext(ctx)
	if err != nil {
		return fmt.Errorf("connecting to systemd: %w", err)
	}
	defer conn.Close()
	name = fmt.Sprintf("%s-%d.scope", name, pid)
	result := make(chan string, 1)
	properties := []dbus.Property{dbus.PropDescription(description), dbus.PropPids(uint32(pid))} //nolint:gosec // a process id
	if _, err := conn.StartTransientUnitContext(ctx, name, "replace", properties, result); err != nil {
		return fmt.Errorf("asking systemd to make %q: %w", name, err)
	}
	select {
	case <-ctx.Done():
		return fmt.Errorf("asking systemd to make %q: %w", name, ctx.Err())
	case r := <-result:
		if r != "done" {
			return fmt.Errorf("asking systemd to make %q: systemd says %q", name, r)
		}
	}
	return nil
}
