// Package unit is EDGE: systemd. It enables, starts and stops one unit over D-Bus, and tells
// systemd that the daemon is ready and healthy. It alone imports systemd's clients. It writes no
// files itself.
package unit

import (
	"context"
	"fmt"

	"github.com/coreos/go-systemd/v22/dbus"
)

// Systemd controls one unit, such as "nodeagent.service".
type Systemd struct{ name string }

// New touches nothing.
func New(name string) *Systemd { return &Systemd{name} }

// State reports whether the unit runs and whether it starts at boot. A unit that is not installed
// is an error.
func (s *Systemd) State(ctx context.Context) (active, enabled bool, err error) {
	conn, err := dbus.NewSystemConnectionContext(ctx)
	if err != nil {
		return false, false, fmt.Errorf("connecting to systemd: %w", err)
	}
	defer conn.Close()
	p, err := conn.GetUnitPropertiesContext(ctx, s.name)
	if err != nil {
		return false, false, fmt.Errorf("asking systemd for %q: %w", s.name, err)
	}
	if p["LoadState"] != "loaded" {
		return false, false, fmt.Errorf("asking systemd for %q: it is %v", s.name, p["LoadState"])
	}
	return p["ActiveState"] == "active", p["UnitFileState"] == "enabled", nil
}

// Start reloads the unit file if it has changed, enables the unit, and starts or restarts it. It
// returns when systemd has: for Type=notify that is when the daemon has said READY=1.
func (s *Systemd) Start(ctx context.Context) error {
	conn, err := dbus.NewSystemConnectionContext(ctx)
	if err != nil {
		return fmt.Errorf("connecting to systemd: %w", err)
	}
	defer conn.Close()
	p, err := conn.GetUnitPropertiesContext(ctx, s.name)
	if err != nil {
		return fmt.Errorf("asking systemd for %q: %w", s.name, err)
	}
	if p["NeedDaemonReload"] != false { // slow on a machine with many units
		if err := conn.ReloadContext(ctx); err != nil {
			return fmt.Errorf("reloading systemd's units: %w", err)
		}
	}
	if _, _, err := conn.EnableUnitFilesContext(ctx, []string{s.name}, false, true); err != nil {
		return fmt.Errorf("enabling %q: %w", s.name, err)
	}
	result := make(chan string, 1)
	if _, err := conn.RestartUnitContext(ctx, s.name, "replace", result); err != nil {
		return fmt.Errorf("starting %q: %w", s.name, err)
	}
	select {
	case <-ctx.Done():
		return fmt.Errorf("starting %q: %w", s.name, ctx.Err())
	case r := <-result:
		if r != "done" {
			return fmt.Errorf("starting %q: systemd says %q", s.name, r)
		}
	}
	return nil
}

// Running reports whether the unit runs and whether it starts at boot. Unlike State it takes a unit
// that is not installed, and a machine without systemd, for one with nothing to stop.
func (s *Systemd) Running(ctx context.Context) (active, enabled bool, err error) {
	conn, err := dbus.NewSystemConnectionContext(ctx)
	if err != nil {
		return false, false, nil // without systemd there is no unit
	}
	defer conn.Close()
	return s.running(ctx, conn)
}

func (s *Systemd) running(ctx context.Context, conn *dbus.Conn) (active, enabled bool, err error) {
	p, err := conn.GetUnitPropertiesContext(ctx, s.name)
	if err != nil {
		return false, false, fmt.Errorf("asking systemd for %q: %w", s.name, err)
	}
	if p["LoadState"] != "loaded" {
		return false, false, nil
	}
	return p["ActiveState"] != "inactive" && p["ActiveState"] != "failed", p["UnitFileState"] == "enabled", nil
}

// Stop stops the unit and keeps it from starting at boot; a unit of which Running reports nothing
// is left alone.
func (s *Systemd) Stop(ctx context.Context) error {
	conn, err := dbus.NewSystemConnectionContext(ctx)
	if err != nil {
		return nil // without systemd there is no unit
	}
	defer conn.Close()
	active, enabled, err := s.running(ctx, conn)
	if err != nil {
		return err
	}
	if active {
		result := make(chan string, 1)
		if _, err := conn.StopUnitContext(ctx, s.name, "replace", result); err != nil {
			return fmt.Errorf("stopping %q: %w", s.name, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("stopping %q: %w", s.name, ctx.Err())
		case <-result:
		}
	}
	if enabled {
		if _, err := conn.DisableUnitFilesContext(ctx, []string{s.name}, false); err != nil {
			return fmt.Errorf("disabling %q: %w", s.name, err)
		}
		if err := conn.ReloadContext(ctx); err != nil {
			return fmt.Errorf("reloading systemd's units: %w", err)
		}
	}
	return nil
}
