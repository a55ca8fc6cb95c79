package logdir

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// TestNext: each rotated file sorts after earlier ones, whatever happens to the clock, and for a
// new pump too, since Next reads the folder.
func TestNext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	summer, winter := time.FixedZone("CEST", 2*3600), time.FixedZone("CET", 3600)
	at := time.Date(2026, 10, 25, 2, 59, 50, 0, summer)
	var made []string
	for i, now := range []time.Time{
		at, at, at.Add(100 * time.Millisecond), // within a second
		at.Add(10 * time.Second).In(winter), // an hour earlier by its name
		at.Add(-2 * time.Hour),              // set back
		at.Add(2 * time.Hour).In(winter),
	} {
		name := Next(path, now)
		if i%2 == 0 { // some are compressed by then
			name += ".gz"
		}
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		made = append(made, name)
	}
	if got := Rotated(path); !slices.Equal(got, made) {
		t.Errorf("made\n%q\nand in order of their names\n%q", made, got)
	}
}
