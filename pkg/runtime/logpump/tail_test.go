package logpump_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/runtime/logpump"
	"github.com/nodeagent/nodeagent/pkg/runtime/logpump/crilog"
)

// randomEntries makes a log of both streams, in which pieces of lines alternate with the other
// stream's.
func randomEntries(r *rand.Rand, n int) []crilog.Entry {
	var all []crilog.Entry
	for i := range n {
		e := crilog.Entry{Time: time.Unix(int64(i), 0), Stream: crilog.Stdout, Partial: r.IntN(3) == 0, Text: fmt.Appendf(nil, "<%d>", i)}
		if r.IntN(3) == 0 {
			e.Stream = crilog.Stderr
		}
		all = append(all, e)
	}
	return all
}

// lastLines is a slow, obvious way to find the last lines: it numbers the lines of each stream by
// where they end.
func lastLines(all []crilog.Entry, stream crilog.Stream, lines int) string {
	line, open := make([]int, len(all)), map[crilog.Stream]int{}
	total := 0
	for i := len(all) - 1; i >= 0; i-- {
		s := all[i].Stream
		if stream != "" && s != stream {
			continue
		}
		if !all[i].Partial || open[s] == 0 {
			total++
			open[s] = total
		}
		line[i] = open[s]
	}
	var b strings.Builder
	for i, e := range all {
		if line[i] == 0 || line[i] > lines {
			continue
		}
		b.Write(e.Text)
		if !e.Partial {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

func TestTheLastLinesAreTheProgramsAndNoMore(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for round := range 40 {
		path := filepath.Join(t.TempDir(), "0.log")
		all := randomEntries(r, 60)
		names := []string{path + ".20260101-000000.gz", path + ".20260101-000001", path}
		for i, name := range names {
			var b []byte
			for _, e := range all[i*20 : i*20+20] {
				b = e.Append(b)
			}
			if strings.HasSuffix(name, ".gz") {
				var z bytes.Buffer
				w := gzip.NewWriter(&z)
				w.Write(b)
				w.Close()
				b = z.Bytes()
			}
			if i == 2 {
				b = append(b, "2026-01-01T00:00:00Z stdout F half wri"...)
			}
			if err := os.WriteFile(name, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for _, stream := range []crilog.Stream{"", crilog.Stdout, crilog.Stderr} {
			for n := range int64(62) {
				var got bytes.Buffer
				if err := logpump.Read(t.Context(), path, runtime.LogOptions{Tail: &n, Stream: string(stream)}, &got, &got); err != nil {
					t.Fatal(err)
				}
				if want := lastLines(all, stream, int(n)); got.String() != want {
					t.Fatalf("round %d, last %d lines of %q:\n%q, want\n%q", round, n, stream, got.String(), want)
				}
			}
		}
	}
}

func TestTheLastLineMayBeLong(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	split := crilog.Splitter{Stream: crilog.Stdout}
	long := strings.Repeat("x", 40_000)
	if err := os.WriteFile(path, split.Split(nil, []byte("before\n"+long+"\n"), time.Unix(1, 0)), 0o600); err != nil {
		t.Fatal(err)
	}
	one := int64(1)
	var got bytes.Buffer
	if err := logpump.Read(t.Context(), path, runtime.LogOptions{Tail: &one}, &got, &got); err != nil || got.String() != long+"\n" {
		t.Errorf("%d bytes, %v; want %d", got.Len(), err, len(long)+1)
	}
}

// writingWriter appends to the log with each piece that is read, like a busy container.
type writingWriter struct {
	bytes.Buffer
	write func()
}

func (w *writingWriter) Write(b []byte) (int, error) {
	w.write()
	return w.Buffer.Write(b)
}

func TestABusyContainerAddsNoLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rotated := 0
	write := func() {
		for i := range 700 {
			f.Write(crilog.Entry{Time: time.Unix(1, 0), Stream: crilog.Stdout, Text: fmt.Appendf(nil, "line %0200d", i)}.Append(nil))
		}
		if rotated++; rotated == 3 { // and it rotates meanwhile
			if err := os.Rename(path, path+".20260101-000000"); err != nil {
				t.Error(err)
			}
			f.Close()
			if f, err = os.Create(path); err != nil {
				t.Error(err)
			}
		}
	}
	write()
	for _, n := range []int64{200, 500} {
		for range 3 {
			w := &writingWriter{write: write}
			if err := logpump.Read(t.Context(), path, runtime.LogOptions{Tail: &n}, w, w); err != nil {
				t.Fatal(err)
			}
			if lines := int64(bytes.Count(w.Bytes(), []byte("\n"))); lines != n {
				t.Errorf("%d lines, want %d", lines, n)
			}
		}
	}
	all := &writingWriter{write: write} // ends, though there is always more
	if err := logpump.Read(t.Context(), path, runtime.LogOptions{}, all, all); err != nil {
		t.Fatal(err)
	}
}
