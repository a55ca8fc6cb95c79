package images

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

const status = `Package: curl
Depends: libc6 (>= 2.34), libcurl4 (= 7.88), awk | nothing
Description: a tool
 Depends: not-a-field

Package: libcurl4
Pre-Depends: libc6:any
Depends: gone | libssl3

Package: libc6

Package: libssl3
Depends: libc6, curl

Package: mawk
Provides: awk (= 1), other

Package: alone
`

func TestClosure(t *testing.T) {
	s, err := parseStatus(strings.NewReader(status))
	if err != nil {
		t.Fatal(err)
	}
	for names, want := range map[string]string{
		"curl":            "curl libc6 libcurl4 libssl3 mawk",
		"libc6":           "libc6",
		"alone not-there": "alone",
		"mawk":            "mawk",
	} {
		got := strings.Join(slices.Sorted(maps.Keys(s.closure(strings.Fields(names)...))), " ")
		if got != want {
			t.Errorf("closure of %s: got %q, want %q", names, got, want)
		}
	}
}

func TestStatusWithoutName(t *testing.T) {
	if _, err := parseStatus(strings.NewReader("Depends: x\n\n")); err == nil {
		t.Error("no error")
	}
}

func FuzzStatus(f *testing.F) {
	f.Add(status)
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parseStatus(strings.NewReader(text))
		if err != nil {
			return
		}
		for n := range s.packages {
			if !s.closure(n)[n] {
				t.Errorf("%q is not in its own closure", n)
			}
		}
	})
}
