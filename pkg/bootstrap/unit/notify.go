package unit

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Notifier tells systemd whether the daemon is ready and healthy (sd_notify(3)). Without systemd
// it does nothing.
type Notifier struct {
	Healthy func() error
	Log     *slog.Logger
}

// Ready says that the service has started.
func (n Notifier) Ready() error {
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		return fmt.Errorf("telling systemd that the agent is ready: %w", err)
	}
	return nil
}

// Run feeds systemd's watchdog at half its interval while the agent is healthy. When it is not,
// systemd restarts it, which does not touch containers.
func (n Notifier) Run(ctx context.Context) error {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return fmt.Errorf("asking for systemd's watchdog: %w", err)
	}
	if interval == 0 {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(interval / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := n.Healthy(); err != nil {
			n.Log.Error("Agent is not healthy, systemd's watchdog is not notified and will restart it", "err", err)
			continue
		}
		if _, err := daemon.SdNotify(false, daemon.SdNotifyWatchdog); err != nil {
			n.Log.Error("Systemd's watchdog cannot be notified", "err", err)
		}
	}
}
