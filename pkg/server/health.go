package server

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// HealthConfig is what a Health page is made from.
type HealthConfig struct {
	Listen  netip.AddrPort
	Healthy func() error // nil: healthy
	Log     *slog.Logger
}

// Health is the plain page on 10248 that kubeadm, systemd scripts and people ask.
type Health struct{ config HealthConfig }

// NewHealth makes a Health page.
func NewHealth(c HealthConfig) *Health { return &Health{c} }

// Run serves /healthz until ctx ends.
func (h *Health) Run(ctx context.Context) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", h.config.Listen.String())
	if err != nil {
		return fmt.Errorf("listening for health checks on %s: %w; --healthz-port chooses another", h.config.Listen, err)
	}
	m := http.NewServeMux()
	m.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if err := h.config.Healthy(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_, _ = io.WriteString(w, "ok")
	})
	return ServeUntil(ctx, &http.Server{Handler: m, ReadHeaderTimeout: 10 * time.Second}, l, h.config.Log)
}
