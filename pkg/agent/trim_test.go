package agent

import (
	"runtime"
	"testing"
)

// TestTrim: garbage of a burst is given back; when there is none, nothing is collected.
func TestTrim(t *testing.T) {
	trim()
	collections := func() uint32 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.NumGC
	}
	before := collections()
	trim()
	if n := collections() - before; n != 0 {
		t.Errorf("%d collections though there was nothing to be had", n)
	}
	burst := make([][]byte, 64)
	for i := range burst {
		burst[i] = make([]byte, 1<<20)
	}
	runtime.KeepAlive(burst)
	runtime.GC() // the pages are free now, but not the machine's
	if _, spare := heap(); spare < 32<<20 {
		t.Fatalf("a burst of 64 MiB left %d bytes to be had", spare)
	}
	trim()
	if _, spare := heap(); spare > 16<<20 {
		t.Errorf("%d bytes could be had still", spare)
	}
}
