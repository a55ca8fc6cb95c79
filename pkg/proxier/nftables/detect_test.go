package nftables_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/proxier/nftables"
)

// TestDetectDoesNotWaitForAHungNft: an nft that does not answer holds up neither the family's loop
// nor the end of the agent.
func TestDetectDoesNotWaitForAHungNft(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "nft"), []byte("#!/bin/sh\nexec /bin/sleep 5\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if _, err := nftables.Detect(ctx, corev1.IPv4Protocol); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Detect says %v", err)
	}
	if took := time.Since(begin); took > 4*time.Second {
		t.Errorf("Detect took %s", took)
	}
}
