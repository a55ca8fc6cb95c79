package footprint

import (
	"runtime"
	"testing"
)

// TestTrim: a burst's garbage is given back; where there is none, no collection runs.
func TestTrim(t *testing.T) {
	Trim()
	collections := func() uint32 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.NumGC
	}
	before := collections()
	Trim()
	if n := collections() - before; n != 0 {
		t.Errorf("%d collections though there was nothing to free", n)
	}
	burst := make([][]byte, 64)
	for i := range burst {
		burst[i] = make([]byte, 1<<20)
	}
	runtime.KeepAlive(burst)
	runtime.GC() // the pages are free now, but not the machine's
	if _, spare := heap(); spare < 32<<20 {
		t.Fatalf("a burst of 64 MiB left %d bytes to free", spare)
	}
	Trim()
	if _, spare := heap(); spare > 16<<20 {
		t.Errorf("%d bytes could still be freed", spare)
	}
}
