package bed_test

import (
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/test/bed"
)

// TestPeer proves the bed with upstream's own programs.
func TestPeer(t *testing.T) {
	c := bed.New(t, bed.Options{Nodes: []bed.Kind{bed.Peer{}}})
	if err := c.Nodes()[0].WaitReady(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
}
