package crilog

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

var at = time.Date(2026, 1, 2, 3, 4, 5, 60, time.UTC)

func TestSplitKeepsEveryByteHoweverTheInputIsCut(t *testing.T) {
	input := "one\n\n" + strings.Repeat("x", MaxLine) + "\n" + strings.Repeat("y", 2*MaxLine+7) + "\ntail"
	for _, step := range []int{1, 2, 7, 4096, MaxLine, len(input)} {
		s := Splitter{Stream: Stdout}
		var file []byte
		for in := []byte(input); len(in) > 0; {
			n := min(step, len(in))
			file = s.Split(file, in[:n], at)
			in = in[n:]
		}
		file = s.Flush(file, at)
		var got bytes.Buffer
		for line := range bytes.Lines(file) {
			e, err := Parse(line)
			if err != nil {
				t.Fatalf("step %d: %v", step, err)
			}
			if len(e.Text) > MaxLine {
				t.Fatalf("step %d: entry of %d bytes", step, len(e.Text))
			}
			got.Write(e.Text)
			if !e.Partial {
				got.WriteByte('\n')
			}
		}
		if got.String() != input {
			t.Fatalf("step %d: %d bytes came back, %d went in", step, got.Len(), len(input))
		}
	}
}

func TestEntryLooksAsLogShippersExpect(t *testing.T) {
	got := string(Entry{Time: at, Stream: Stderr, Text: []byte("a b")}.Append(nil))
	if want := "2026-01-02T03:04:05.00000006Z stderr F a b\n"; got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, line := range []string{
		"", "x", "2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z stdout", "2026-01-02T03:04:05Z stdin F x",
		"2026-01-02T03:04:05Z stdout X x", "2026-01-02T03:04:05Z stdout F", "{\"log\":\"x\"}",
	} {
		if e, err := Parse([]byte(line)); err == nil {
			t.Errorf("%q parsed as %+v", line, e)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("2026-01-02T03:04:05.1Z stdout F hello\n"))
	f.Add([]byte("2026-01-02T03:04:05+02:00 stderr P:x "))
	f.Fuzz(func(t *testing.T, line []byte) {
		e, err := Parse(line)
		if err != nil || bytes.ContainsRune(e.Text, '\n') || e.Time.Year() < 0 || e.Time.UTC().Year() > 9999 || e.Time.UTC().Year() < 0 {
			return
		}
		again, err := Parse(e.Append(nil))
		if err != nil || !again.Time.Equal(e.Time) || again.Stream != e.Stream || again.Partial != e.Partial || !bytes.Equal(again.Text, e.Text) {
			t.Fatalf("%q came back as %+v (%v)", line, again, err)
		}
	})
}

func FuzzSplit(f *testing.F) {
	f.Add([]byte("a\nb"), 1)
	f.Fuzz(func(t *testing.T, input []byte, step int) {
		if step < 1 {
			return
		}
		s := Splitter{Stream: Stdout}
		var file, got []byte
		for in := input; len(in) > 0; {
			n := min(step, len(in))
			file = s.Split(file, in[:n], at)
			in = in[n:]
		}
		file = s.Flush(file, at)
		for line := range bytes.Lines(file) {
			e, err := Parse(line)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, e.Text...)
			if !e.Partial {
				got = append(got, '\n')
			}
		}
		if !bytes.Equal(got, input) {
			t.Fatalf("got %q, want %q", got, input)
		}
	})
}
