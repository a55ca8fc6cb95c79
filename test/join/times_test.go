package join_test

import (
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/test/bed"
)

// TestTimes measures joins to Ready on a machine under systemd, each after a reset that has to leave nothing behind:
// NODEAGENT_JOINS=10 for figures; once in between other tests.
func TestTimes(t *testing.T) {
	bed.Require(t)
	ctx := t.Context()
	runs := 1
	if text := os.Getenv("NODEAGENT_JOINS"); text != "" {
		var err error
		if runs, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	c := bed.New(t, bed.Options{})
	u, err := c.AddUML(ctx, "u1")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := u.InstallNodeAgent(ctx, bed.NodeAgent{}); err != nil {
		t.Fatal(err, out)
	}
	var times []time.Duration
	for i := range runs {
		out, err := u.Output(ctx, "nodeagent", "reset", "--yes")
		if err != nil || !strings.Contains(out, "stopped and disabled the daemon") {
			t.Fatalf("reset: %v\n%s", err, out)
		}
		if state, _ := u.Output(ctx, "sh", "-c", "systemctl is-active nodeagent; systemctl is-enabled nodeagent; true"); strings.Fields(state)[0] != "inactive" || strings.Fields(state)[1] != "disabled" {
			t.Errorf("after reset the unit is %q", state)
		}
		if out, err := u.Output(ctx, "nodeagent", "reset", "--yes"); err != nil || !strings.Contains(out, "nothing of nodeagent") {
			t.Fatalf("reset again: %v\n%s", err, out)
		}
		if out, err := c.Kubectl(ctx, "delete", "node", "u1"); err != nil {
			t.Fatal(err, out)
		}
		out, err = u.Output(ctx, "nodeagent", "join", c.Server(), "--config", "/etc/nodeagent", "--node-ip", u.IP.String(),
			"--token", c.Token(), "--discovery-token-ca-cert-hash", c.CAHash(), "--timeout", "1m")
		said := regexp.MustCompile(`joined in (\S+)\. `).FindStringSubmatch(out)
		if err != nil || said == nil {
			t.Fatalf("joining: %v\n%s", err, out)
		}
		took, err := time.ParseDuration(said[1])
		if err != nil {
			t.Fatal(err)
		}
		times = append(times, took)
		if i == 0 {
			t.Logf("steps:\n%s", out)
		}
	}
	slices.Sort(times)
	t.Logf("join to Ready, %d times: p50 %s, all %v", runs, times[len(times)/2], times)
}
