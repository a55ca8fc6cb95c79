package server

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"time"
)

// HealthConfig configures a Health page.
type HealthConfig struct {
	Listen  netip.AddrPort
	Ports   *Ports       // may be nil
	Healthy func() error // nil: healthy
	Log     *slog.Logger
}

// Health is the page without TLS on port 10248 that kubeadm, scripts and people read.
type Health struct{ config HealthConfig }

// NewHealth makes a Health page; it opens nothing until Run.
func NewHealth(c HealthConfig) *Health { return &Health{c} }

// Run serves /healthz until ctx ends.
func (h *Health) Run(ctx context.Context) error {
	l := h.config.Ports.Listen(ctx, h.config.Listen, "is a kubelet running on this machine? --healthz-port chooses another for health checks", h.config.Log)
	if l == nil {
		return nil
	}
	m := http.NewServeMux()
	handleHealth(m, h.config.Healthy)
	return ServeUntil(ctx, &http.Server{Handler: m, ReadHeaderTimeout: 10 * time.Second}, l, h.config.Log)
}

// healthCheck is one of the checks of /healthz, named as in kubelet.
type healthCheck struct {
	name  string
	check func() error
}

// handleHealth adds /healthz and a page for each check below it. As in kubelet, ?verbose lists the
// checks and ?exclude=NAME leaves one out. There is neither /livez nor /readyz, as in kubelet.
func handleHealth(m *http.ServeMux, healthy func() error) {
	fine := func() error { return nil }
	if healthy == nil {
		healthy = fine
	}
	checks := []healthCheck{{"ping", fine}, {"log", fine}, {"syncloop", healthy}}
	for _, c := range checks {
		m.HandleFunc("GET /healthz/"+c.name, func(w http.ResponseWriter, _ *http.Request) {
			if err := c.check(); err != nil {
				http.Error(w, "internal server error: "+err.Error(), http.StatusInternalServerError)
				return
			}
			_, _ = io.WriteString(w, "ok")
		})
	}
	m.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		text, failed := runChecks(checks, r.URL.Query()["exclude"])
		_, verbose := r.URL.Query()["verbose"]
		switch {
		case failed:
			http.Error(w, text+"healthz check failed", http.StatusInternalServerError)
		case verbose:
			_, _ = io.WriteString(w, text+"healthz check passed\n")
		default:
			_, _ = io.WriteString(w, "ok")
		}
	})
}

func runChecks(checks []healthCheck, excluded []string) (text string, failed bool) {
	for _, c := range checks {
		if slices.Contains(excluded, c.name) {
			text += "[+]" + c.name + " excluded: ok\n"
			continue
		}
		if err := c.check(); err != nil {
			text += "[-]" + c.name + " failed: " + err.Error() + "\n"
			failed = true
			continue
		}
		text += "[+]" + c.name + " ok\n"
	}
	return text, failed
}
