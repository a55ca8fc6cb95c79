package unit

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// TestNotifier: systemd's watchdog hears from a healthy agent, and nothing from one that is not;
// READY=1 is sent only when asked for.
func TestNotifier(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	t.Setenv("NOTIFY_SOCKET", socket)
	t.Setenv("WATCHDOG_USEC", "20000")
	t.Setenv("WATCHDOG_PID", "")
	told := func(patience time.Duration) string {
		b := make([]byte, 100)
		if err := l.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		n, err := l.Read(b)
		if err != nil {
			return ""
		}
		return string(b[:n])
	}
	var stuck atomic.Bool
	var asked atomic.Int32
	n := Notifier{Log: slog.New(slog.DiscardHandler), Healthy: func() error {
		asked.Add(1)
		if stuck.Load() {
			return errors.New("stuck")
		}
		return nil
	}}
	if err := n.Ready(); err != nil || told(10*time.Second) != "READY=1" {
		t.Fatalf("systemd was not told that the agent is ready: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	if got := told(10 * time.Second); got != "WATCHDOG=1" {
		t.Errorf("the watchdog got %q of a healthy agent", got)
	}
	stuck.Store(true)
	for before := asked.Load(); asked.Load() < before+3; { // the notifications on their way have arrived by then
		time.Sleep(time.Millisecond)
	}
	for told(time.Millisecond) != "" {
	}
	if got := told(100 * time.Millisecond); got != "" {
		t.Errorf("the watchdog got %q of an agent that is stuck", got)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
