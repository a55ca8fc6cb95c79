package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/nodeagent/nodeagent/pkg/status/summary"
)

// StatusSocket answers `nodeagent status` on a socket that only root can open.
type StatusSocket struct {
	Path   string
	Report func() summary.Report
	Log    *slog.Logger
}

// Run serves until ctx ends.
func (s StatusSocket) Run(ctx context.Context) error {
	l, err := s.listen(ctx)
	if err != nil {
		return err
	}
	return ServeUntil(ctx, &http.Server{Handler: http.HandlerFunc(s.answer), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}, l, s.Log)
}

func (s StatusSocket) listen(ctx context.Context) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(s.Path), 0o755); err != nil {
		return nil, fmt.Errorf("making the folder of the status socket: %w", err)
	}
	// A killed agent leaves its socket behind, and a new one cannot be opened beside it.
	if err := os.Remove(s.Path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("removing the old status socket %q: %w", s.Path, err)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", s.Path)
	if err != nil {
		return nil, fmt.Errorf("opening the status socket: %w", err)
	}
	if err := os.Chmod(s.Path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("restricting the status socket %q to root: %w", s.Path, err), l.Close())
	}
	return l, nil
}

func (s StatusSocket) answer(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(s.Report()); err != nil {
		s.Log.Debug("Status cannot be sent", "err", err)
	}
}

// askTimeout is the longest that the agent is waited for: it answers from memory.
const askTimeout = 10 * time.Second

// Listens reports whether an agent listens at the status socket. One that hangs does, too.
func Listens(ctx context.Context, path string) bool {
	conn, err := (&net.Dialer{Timeout: askTimeout}).DialContext(ctx, "unix", path)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// AskStatus asks the running agent for its report. It waits for ten seconds at most.
func AskStatus(ctx context.Context, path string) (summary.Report, error) {
	var r summary.Report
	client := http.Client{Timeout: askTimeout, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		},
	}}
	defer client.CloseIdleConnections()
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
