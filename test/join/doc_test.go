package join_test

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/nodeagent/nodeagent/pkg/bootstrap"
)

// TestTable: docs/join.md has every exit code, and what it says of a test is in that test.
func TestTable(t *testing.T) {
	doc, err := os.ReadFile("../../docs/join.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]string{}
	for _, file := range []string{"join_test.go", "fault_test.go", "reset_test.go", "times_test.go", "expired_test.go", "../../cmd/nodeagent/kubelet_test.go"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range regexp.MustCompile(`(?m)^func `).Split(string(text), -1) {
			if name, body, ok := strings.Cut(part, "("); ok {
				tests[name] = body
			}
		}
	}
	seen := map[int]bool{}
	for _, row := range regexp.MustCompile(`(?m)^\| (\d+) \| ([^|]*) \| ([^|]*) \| ([^|]*)\|$`).FindAllStringSubmatch(string(doc), -1) {
		code, err := strconv.Atoi(row[1])
		if err != nil {
			t.Fatal(err)
		}
		seen[code] = true
		name := strings.TrimSpace(row[4])
		if code < 10 && name == "" {
			continue
		}
		body, ok := tests[name]
		if !ok {
			t.Errorf("%s: there is no test %s", row[0], name)
			continue
		}
		if code >= 10 && !regexp.MustCompile(`\b`+row[1]+`\b`).MatchString(body) {
			t.Errorf("%s: %s does not expect exit code %d", row[0], name, code)
		}
		if quoted := regexp.MustCompile("`(.*)`").FindStringSubmatch(row[3]); quoted != nil && !strings.Contains(body, quoted[1]) {
			t.Errorf("%s: %s does not look for %q", row[0], name, quoted[1])
		}
	}
	for code := bootstrap.CodeHost; code <= bootstrap.CodeClock; code++ {
		if !seen[int(code)] {
			t.Errorf("exit code %d has no row", code)
		}
	}
}
