package server

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestABusyPortIsOpenedLater: it is logged once, and in the status until it is open.
func TestABusyPortIsOpenedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var free atomic.Bool
		var log bytes.Buffer
		p := &Ports{Open: func(context.Context, string, string) (net.Listener, error) {
			if !free.Load() {
				return nil, syscall.EADDRINUSE
			}
			return &net.TCPListener{}, nil
		}}
		at := netip.MustParseAddrPort("0.0.0.0:10256")
		opened := make(chan net.Listener, 1)
		go func() {
			opened <- p.Listen(t.Context(), at, "is kube-proxy running on this machine?", slog.New(slog.NewTextHandler(&log, nil)))
		}()
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := p.Closed(); len(got) != 1 || !strings.Contains(got[0], "10256") || !strings.Contains(got[0], "kube-proxy") {
			t.Errorf("the status says %q", got)
		}
		if n := strings.Count(log.String(), "cannot be opened"); n != 1 {
			t.Errorf("the log tells it %d times", n)
		}
		free.Store(true)
		since := time.Now()
		if l := <-opened; l == nil || time.Since(since) > retryListen {
			t.Errorf("%v after it was free: %v", time.Since(since), l)
		}
		if got := p.Closed(); len(got) != 0 {
			t.Errorf("it is open, and the status says %q", got)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		p := &Ports{Open: func(context.Context, string, string) (net.Listener, error) { return nil, syscall.EADDRINUSE }}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if l := p.Listen(ctx, netip.MustParseAddrPort("127.0.0.1:1"), "", slog.New(slog.DiscardHandler)); l != nil || ctx.Err() == nil {
			t.Errorf("after its end: %v", l)
		}
	})
}
