package server_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/pkg/server"
)

// TestAgentThatHangs: it is there, though it does not answer, and nobody waits for it without end.
func TestAgentThatHangs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	if server.Listens(t.Context(), path) {
		t.Error("an agent listens where there is no socket")
	}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if !server.Listens(t.Context(), path) {
		t.Error("an agent that does not accept is taken for none")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := server.AskStatus(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("asking an agent that hangs: %v", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = l.Close()
	if server.Listens(t.Context(), path) {
		t.Error("a socket that an agent left behind is taken for an agent")
	}
}
