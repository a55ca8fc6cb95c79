package agent

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// notifier tells systemd how the daemon is (sd_notify(3)); without systemd it does nothing.
type notifier struct {
	healthy func() error
	log     *slog.Logger
}

// ready says that the service has started.
func (n notifier) ready() error {
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		return fmt.Errorf("telling systemd that the agent is ready: %w", err)
	}
	return nil
}

// Run feeds systemd's watchdog at half its interval while the agent is healthy, and lets it starve
// when not, so that a stuck agent is restarted. Containers are not touched by that.
func (n notifier) Run(ctx context.Context) error {
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
		if err := n.healthy(); err != nil {
			n.log.Error("Watchdog not fed: the agent is not healthy", "err", err)
			continue
		}
		if _, err := daemon.SdNotify(false, daemon.SdNotifyWatchdog); err != nil {
			n.log.Error("Watchdog not fed", "err", err)
		}
	}
}
