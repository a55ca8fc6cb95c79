package logpump_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	goruntime "runtime"
	"testing"

	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/runtime/logpump"
)

// TestALineWithoutEndIsNotHeld: whatever a pod writes to a mounted log folder costs the agent no
// memory, however the log is read, and entries next to it are printed.
func TestALineWithoutEndIsNotHeld(t *testing.T) {
	const size = 256 << 20
	entry := func(text string) string { return "2026-01-02T03:04:05Z stdout F " + text + "\n" }
	for name, compress := range map[string]bool{"plain": false, "compressed": true} {
		path := filepath.Join(t.TempDir(), "0.log")
		older := path + ".20260102-030405"
		if compress {
			older += ".gz"
		}
		writeWithHole(t, older, compress, size, entry("one")+entry("two"), "\n"+entry("three"))
		// The current file ends in a hole, as truncate(1) makes.
		if err := os.WriteFile(path, []byte(entry("four")), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
		for tail, want := range map[int64]string{-1: "one\ntwo\nthree\nfour\n", 3: "two\nthree\nfour\n"} {
			o := runtime.LogOptions{}
			if tail >= 0 {
				o.Tail = &tail
			}
			goruntime.GC()
			var before, after goruntime.MemStats
			goruntime.ReadMemStats(&before)
			var out bytes.Buffer
			if err := logpump.Read(t.Context(), path, o, &out, &out); err != nil || out.String() != want {
				t.Errorf("%s, last %d: %q, %v", name, tail, out.String(), err)
			}
			goruntime.ReadMemStats(&after)
			if grown := int64(after.HeapSys) - int64(before.HeapSys); grown > size/4 {
				t.Errorf("%s, last %d: the heap has grown by %d MiB", name, tail, grown>>20)
			}
		}
	}
}

// writeWithHole writes a file with zeros in the middle without holding it in memory.
func writeWithHole(t *testing.T, path string, compress bool, zeros int, before, after string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	to := io.WriteCloser(f)
	if compress {
		to = gzip.NewWriter(f)
	}
	block := make([]byte, 1<<20)
	_, _ = io.WriteString(to, before)
	for range zeros / len(block) {
		_, _ = to.Write(block)
	}
	_, _ = io.WriteString(to, after)
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
}
