package main

import (
	"strings"
	"testing"
)

func TestProgress(t *testing.T) {
	var out strings.Builder
	p := newProgress(&out)
	for _, chunk := range []string{
		"Running Suite\nWill run 7 of 99 specs\nRunning in parallel\n••\n", "•\n----\n• [FAI", "LED] [12.0 seconds]\n[sig-node] x\n  [FAILED] why\n----\n", "•", "•",
	} {
		if n, err := p.Write([]byte(chunk)); n != len(chunk) || err != nil {
			t.Fatal(n, err)
		}
	}
	p.end()
	if got := out.String(); got != "Will run 7 of 99 specs: 5 passed, 1 failed\n" {
		t.Errorf("got %q", got)
	}
}
