package iptables

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/internal/fakekernel"
	"github.com/nodeagent/nodeagent/internal/golden"
	"github.com/nodeagent/nodeagent/pkg/proxier/iptables/rules"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot/snapshottest"
)

// pickyTool refuses rules, as a kernel without a module does. With lines it names the line, else
// it quotes the chain.
type pickyTool struct {
	fakeTool
	refuse *regexp.Regexp
	lines  bool
}

func (p *pickyTool) Restore(ctx context.Context, text []byte) error {
	for i, l := range strings.Split(string(text), "\n") {
		switch {
		case !strings.HasPrefix(l, "-A") || !p.refuse.MatchString(l):
		case p.lines:
			return &RefusedError{Line: i + 1, Said: "bad rule"}
		default:
			return &RefusedError{Said: "RULE_APPEND failed (No such file or directory): rule in chain " + strings.Fields(l)[1]}
		}
	}
	return p.fakeTool.Restore(ctx, text)
}

// TestRefusedRulesAreLeftOut: everything else is in place, the Service is named, and it is back
// when it can be.
func TestRefusedRulesAreLeftOut(t *testing.T) {
	for _, lines := range []bool{true, false} {
		k := fakekernel.New(corev1.IPv4Protocol)
		tool := &pickyTool{fakeTool: fakeTool{k}, refuse: regexp.MustCompile("nothing"), lines: lines}
		o := testOptions(corev1.IPv4Protocol)
		b, err := New(Config{Options: o, Tool: tool, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
		if err != nil {
			t.Fatal(err)
		}
		all := snapshottest.Many(20)
		if err := b.Sync(t.Context(), all); err != nil {
			t.Fatal(err)
		}
		whole := sortedLines(k)
		victim := all.Services[7].Ports[0]
		chain, other := chainOf(t, all, victim), chainOf(t, all, all.Services[19].Ports[0])
		tool.refuse = regexp.MustCompile("^-A " + chain)
		next := snapshottest.Many(20) // other pointers: everything is rendered again
		b.Forget()
		err = b.Sync(t.Context(), next)
		var left *snapshot.LeftOutError
		if !errors.As(err, &left) || len(left.Problems) != 1 || !strings.Contains(left.Error(), victim.Name+" TCP") {
			t.Fatalf("lines %v: the Service is not named: %v", lines, err)
		}
		if got := k.String(); strings.Contains(got, chain) || !strings.Contains(got, other) {
			t.Errorf("lines %v: the refused chain is there, or others are not:\n%s", lines, got)
		}
		if err := b.Sync(t.Context(), next); !errors.As(err, &left) {
			t.Errorf("lines %v: a Service without rules is not reported again: %v", lines, err)
		}
		tool.refuse = regexp.MustCompile("nothing")
		untilDrift(t, b)
		if err := b.Sync(t.Context(), next); err != nil || sortedLines(k) != whole {
			t.Errorf("lines %v: not whole when nothing is refused any more: %v\n%s", lines, err, golden.LineDiff(whole, sortedLines(k)))
		}
	}
}

// chainOf is the chain that the cluster IP of a port leads to.
func chainOf(t *testing.T, s *snapshot.Snapshot, p *snapshot.Port) string {
	t.Helper()
	m := regexp.MustCompile("-d " + p.ClusterIP.String() + " .* -j (KUBE-SVC-\\S+)").FindStringSubmatch(rules.Render(s, testOptions(s.Family)).String())
	if m == nil {
		t.Fatalf("no chain of %s", p.Name)
	}
	return m[1]
}

// untilDrift: what was refused is tried again after some Checks.
func untilDrift(t *testing.T, b *Backend) {
	t.Helper()
	for range retryChecks {
		if drift, err := b.Check(t.Context()); err != nil || drift != nil {
			return
		}
	}
	t.Errorf("after %d checks nothing is tried again", retryChecks)
}

// TestRefusalOfEverythingIsAnError: a kernel that takes no rule at all is not blamed on Services.
func TestRefusalOfEverythingIsAnError(t *testing.T) {
	tool := &pickyTool{fakeTool: fakeTool{fakekernel.New(corev1.IPv4Protocol)}, refuse: regexp.MustCompile("."), lines: true}
	b, err := New(Config{Options: testOptions(corev1.IPv4Protocol), Tool: tool, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	var left *snapshot.LeftOutError
	if err := b.Sync(t.Context(), snapshottest.Many(50)); err == nil || errors.As(err, &left) {
		t.Errorf("got %v", err)
	}
}

// sortedLines: a chain that comes back is the last one.
func sortedLines(k *fakekernel.Kernel) string {
	lines := strings.Split(k.String(), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
