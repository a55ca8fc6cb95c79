package runtime_test

import (
	"context"
	"testing"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// bare is a runtime without powers; none of its methods is called.
type bare struct{ runtime.Runtime }

// classes is a runtime with one power.
type classes struct{ bare }

func (classes) HandlerNames() []string { return []string{"kata"} }

func TestWithAllPowers(t *testing.T) {
	r := runtime.WithAllPowers(bare{})
	bytes, err := r.WritableBytes(t.Context(), "c")
	foreign, ferr := r.Foreign(t.Context())
	if r.HandlerNames() != nil || r.Ready(t.Context()) != nil || r.Version() != "" || r.VolumeDir("c") != "" || bytes != 0 || err != nil || foreign != nil || ferr != nil {
		t.Error("a runtime without powers does not get the documented replacements")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Run(ended); err != nil {
		t.Errorf("Run at the end of its context: %v", err)
	}
	if got := runtime.WithAllPowers(classes{}).HandlerNames(); len(got) != 1 || got[0] != "kata" {
		t.Errorf("a runtime's own power is lost: %v", got)
	}
}
