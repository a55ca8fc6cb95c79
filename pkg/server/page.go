package server

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// PageConfig configures a Page.
type PageConfig struct {
	Listen  netip.AddrPort
	Ports   *Ports
	Handler http.Handler
	// Remedy says what to do when the port cannot be opened.
	Remedy string
	// Hard makes it an error that the port cannot be opened; else Run tries again.
	Hard bool
	Log  *slog.Logger
}

// Page is a page on a port without TLS.
type Page struct{ config PageConfig }

// NewPage makes a Page; it opens nothing until Run.
func NewPage(c PageConfig) *Page { return &Page{c} }

// Run serves until ctx ends.
func (p *Page) Run(ctx context.Context) error {
	l, err := p.listen(ctx)
	if l == nil {
		return err
	}
	return ServeUntil(ctx, &http.Server{Handler: p.config.Handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}, l, p.config.Log)
}

func (p *Page) listen(ctx context.Context) (net.Listener, error) {
	c := p.config
	if !c.Hard {
		return c.Ports.Listen(ctx, c.Listen, c.Remedy, c.Log), nil
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.Listen.String())
	if err != nil {
		return nil, fmt.Errorf("listening on %s, which bindAddressHardFail demands: %w; %s", c.Listen, err, c.Remedy)
	}
	return l, nil
}

// MetricsHandler serves a registry. It leaves out and counts a collector that fails, so that one
// cannot hide the others.
func MetricsHandler(r *prometheus.Registry) http.Handler {
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, Registry: r})
}
