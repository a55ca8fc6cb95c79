package iptables

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeagent/nodeagent/internal/fakekernel"
	"github.com/nodeagent/nodeagent/internal/golden"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// pickyTool refuses rules, as a kernel without a module does. With lines it names the line, else it
// quotes the chain.
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
		all := manyServices(20)
		if err := b.Sync(t.Context(), all); err != nil {
			t.Fatal(err)
		}
		whole := sortedLines(k)
		victim := all.Services[7].Ports[0]
		chain := prefixCluster + hashed(victim.Name, "tcp")
		tool.refuse = regexp.MustCompile("^-A " + chain)
		next := manyServices(20) // other pointers: everything is rendered again
		b.applied = nil
		err = b.Sync(t.Context(), next)
		var left *snapshot.LeftOutError
		if !errors.As(err, &left) || len(left.Problems) != 1 || !strings.Contains(left.Error(), victim.Name+" TCP") {
			t.Fatalf("lines %v: the Service is not named: %v", lines, err)
		}
		if got := k.String(); strings.Contains(got, chain) || !strings.Contains(got, prefixCluster+hashed(next.Services[19].Ports[0].Name, "tcp")) {
			t.Errorf("lines %v: the refused chain is there, or others are not:\n%s", lines, got)
		}
		if err := b.Sync(t.Context(), next); !errors.As(err, &left) {
			t.Errorf("lines %v: a Service without rules is not told again: %v", lines, err)
		}
		tool.refuse = regexp.MustCompile("nothing")
		untilDrift(t, b)
		if err := b.Sync(t.Context(), next); err != nil || sortedLines(k) != whole {
			t.Errorf("lines %v: not whole when nothing is refused any more: %v\n%s", lines, err, golden.LineDiff(whole, sortedLines(k)))
		}
	}
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
	if err := b.Sync(t.Context(), manyServices(50)); err == nil || errors.As(err, &left) {
		t.Errorf("got %v", err)
	}
}

// manyServices makes n Services with an endpoint each.
func manyServices(n int) *snapshot.Snapshot {
	var svcs []*corev1.Service
	var sls []*discoveryv1.EndpointSlice
	for i := range n {
		meta := metav1.ObjectMeta{Namespace: "ns", Name: "s" + strconv.Itoa(i), Labels: map[string]string{discoveryv1.LabelServiceName: "s" + strconv.Itoa(i)}}
		svcs = append(svcs, &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{
			ClusterIP: netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}).String(), Ports: []corev1.ServicePort{{Port: 80}},
		}})
		port := int32(8080)
		sls = append(sls, &discoveryv1.EndpointSlice{
			ObjectMeta: meta, AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Port: &port}},
			Endpoints: []discoveryv1.Endpoint{{Addresses: []string{netip.AddrFrom4([4]byte{10, 244, byte(i >> 8), byte(i)}).String()}}},
		})
	}
	return snapshot.Build(svcs, sls, snapshot.Node{Name: "me"}, corev1.IPv4Protocol)
}

// sortedLines: a chain that comes back is the last one.
func sortedLines(k *fakekernel.Kernel) string {
	lines := strings.Split(k.String(), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
