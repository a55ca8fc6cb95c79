package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/nodeagent/nodeagent/pkg/server"
	"github.com/nodeagent/nodeagent/pkg/status/summary"
)

// metricsPage serves a registry. A collector that fails is left out and told, so that one cannot
// hide the others.
func metricsPage(r *prometheus.Registry) http.Handler {
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, Registry: r})
}

// servePlain serves h until ctx ends. A port that is in use is an error only when hard.
func servePlain(ctx context.Context, at netip.AddrPort, h http.Handler, ports *server.Ports, p plain) error {
	const remedy = "is kube-proxy running on this machine?"
	if !p.hard {
		if l := ports.Listen(ctx, at, remedy, p.log); l != nil {
			return serve(ctx, l, h, p.log)
		}
		return nil
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", at.String())
	if err != nil {
		return fmt.Errorf("listening on %s, which bindAddressHardFail demands: %w; %s", at, err, remedy)
	}
	return serve(ctx, l, h, p.log)
}

// plain is how a page without TLS is served.
type plain struct {
	hard bool // KubeProxyConfiguration bindAddressHardFail
	log  *slog.Logger
}

func serve(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	return server.ServeUntil(ctx, &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}, l, log)
}

// serveSummary answers `nodeagent status` on a socket that only root can open.
func serveSummary(ctx context.Context, path string, report func() summary.Report, log *slog.Logger) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("making the folder of the status socket: %w", err)
	}
	// A socket that a killed agent left behind would keep ours from being made.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing the old status socket %q: %w", path, err)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("opening the status socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return fmt.Errorf("restricting the status socket %q to root: %w", path, err)
	}
	return serve(ctx, l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(report()); err != nil {
			log.Debug("Status was not answered", "err", err)
		}
	}), log)
}

// AskSummary asks the running agent for its report.
func AskSummary(ctx context.Context, path string) (summary.Report, error) {
	var r summary.Report
	client := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		},
	}}
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent/status", nil)
	if err != nil {
		return r, fmt.Errorf("asking the agent: %w", err)
	}
	answer, err := client.Do(q)
	if err != nil {
		return r, fmt.Errorf("asking the agent at %q: %w; is it running? systemctl status nodeagent", path, err)
	}
	defer func() { _ = answer.Body.Close() }()
	if err := json.NewDecoder(answer.Body).Decode(&r); err != nil {
		return r, fmt.Errorf("reading the agent's answer: %w", err)
	}
	return r, nil
}
