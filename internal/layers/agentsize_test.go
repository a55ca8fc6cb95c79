package layers_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// maxAgent is how many lines pkg/agent may have without its tests.
const maxAgent = 900

// TestAgentIsWiringOnly: what decides something does not lie in pkg/agent. When it grows beyond its
// limit, the newest part that is more than a list of parts needs a package of its own.
func TestAgentIsWiringOnly(t *testing.T) {
	files, err := filepath.Glob("../../pkg/agent/*.go")
	if err != nil || len(files) < 3 {
		t.Fatalf("%d files, error %v", len(files), err)
	}
	lines := 0
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		lines += bytes.Count(text, []byte("\n"))
	}
	if lines > maxAgent {
		t.Errorf("pkg/agent has %d lines, more than %d: move what decides into the half that it belongs to", lines, maxAgent)
	}
}
