package containerd

import (
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"testing"

	agentruntime "github.com/nodeagent/nodeagent/pkg/runtime"
)

// TestOutputDoesNotEndBeforeItBegins: reading the pipe of a command's output waits if the shim has
// not opened it yet.
func TestOutputDoesNotEndBeforeItBegins(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	base := t.TempDir()
	for i := range 2000 {
		e := &exec{io: agentruntime.IO{Stdout: io.Discard, Stderr: io.Discard}}
		if err := e.open(filepath.Join(base, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
		runtime.Gosched()
		for _, o := range e.outputs {
			if o.isDone() {
				t.Errorf("round %d: the output has ended already", i)
			}
		}
		e.close(t.Context())
	}
}
