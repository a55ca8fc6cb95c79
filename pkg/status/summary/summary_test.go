package summary

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/nodeagent/nodeagent/internal/golden"
)

func TestPrint(t *testing.T) {
	golden.Run(t, "testdata/*.txtar", func(t *testing.T, files map[string][]byte) map[string][]byte {
		var r Report
		if err := json.Unmarshal(files["report.json"], &r); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := r.Print(&b); err != nil {
			t.Fatal(err)
		}
		return map[string][]byte{"screen": b.Bytes()}
	})
}
