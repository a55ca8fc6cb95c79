package agent

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/pkg/bootstrap/unit"
)

// TestReadyWhenEveryPartIs: systemd is told READY=1 when each part that can say so is ready, and
// not before.
func TestReadyWhenEveryPartIs(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	t.Setenv("NOTIFY_SOCKET", socket)
	t.Setenv("WATCHDOG_USEC", "")
	var none *podsHalf
	wait := func(ctx context.Context) error { <-ctx.Done(); return nil }
	var first, second atomic.Bool
	log := slog.New(slog.DiscardHandler)
	a := &Agent{
		parts:    []part{{"first", wait, first.Load}, {"no matter", wait, nil}, {"second", wait, second.Load}},
		notifier: unit.Notifier{Healthy: none.healthy, Log: log}, log: log, now: time.Now,
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
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
	first.Store(true)
	if got := told(200 * time.Millisecond); got != "" {
		t.Errorf("systemd was told %q though a part is not ready", got)
	}
	second.Store(true)
	if got := told(10 * time.Second); got != "READY=1" {
		t.Errorf("systemd was told %q", got)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
