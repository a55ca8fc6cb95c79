package bed

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// New starts a cluster for a test and stops it when the test ends. It skips the test unless
// NODEAGENT_BED=1, because a cluster needs root and, the first time, minutes to build; `make
// test-bed` sets it. If the test fails, the logs are kept and their folder is printed.
func New(t testing.TB, opts Options) *Cluster {
	t.Helper()
	Require(t)
	if opts.Log == nil {
		opts.Log = testLog{t}
	}
	c, err := Start(t.Context(), opts)
	if err != nil {
		t.Fatalf("starting a cluster: %v", err)
	}
	t.Cleanup(func() {
		// The test's own context is over by now.
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		if t.Failed() {
			keepLogs(t, c)
		}
		if err := c.Stop(ctx); err != nil {
			t.Errorf("stopping the cluster: %v", err)
		}
	})
	return c
}

// Require skips a test that needs clusters unless they are enabled.
func Require(t testing.TB) {
	t.Helper()
	if os.Getenv("NODEAGENT_BED") != "1" {
		t.Skip("needs a real cluster: run as root with NODEAGENT_BED=1, or `make test-bed`")
	}
}

// keepLogs copies the logs out of the run folder, which is about to be removed.
func keepLogs(t testing.TB, c *Cluster) {
	t.Helper()
	dir := filepath.Join(c.Builder().Cache, "logs", c.ID())
	if err := os.CopyFS(dir, os.DirFS(c.LogDir())); err != nil {
		t.Logf("keeping logs: %v", err)
		return
	}
	t.Logf("logs of the cluster are kept in %s", dir)
}

// testLog sends progress lines to the test's log.
type testLog struct{ t testing.TB }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Logf("%s", p)
	return len(p), nil
}
