package server

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"
)

// TestPagesWaitForTheirPort: a port that another program uses when the agent starts is served as
// soon as it is free, and is in the status until then.
func TestPagesWaitForTheirPort(t *testing.T) {
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(other.Addr().String())
	ports := new(Ports)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	c := PageConfig{Listen: at, Ports: ports, Handler: http.NotFoundHandler(), Log: slog.New(slog.DiscardHandler)}
	go func() { ended <- NewPage(c).Run(ctx) }()
	until(t, "the status tells of it", func() bool { return len(ports.Closed()) == 1 })
	hard := c
	hard.Hard = true
	if err := NewPage(hard).Run(ctx); err == nil {
		t.Error("with bindAddressHardFail the port in use is no error")
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	until(t, "the page answers", func() bool {
		r, err := http.Get("http://" + at.String())
		if err == nil {
			err = r.Body.Close()
		}
		return err == nil
	})
	if got := ports.Closed(); len(got) != 0 {
		t.Errorf("it is served, and the status says %q", got)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// until polls until so is true.
func until(t *testing.T, what string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(20 * time.Second); !so(); {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("waiting until %s", what)
		}
	}
}
