package iptables

import (
	"errors"
	"slices"
	"strings"

	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

const (
	// maxLeft bounds how many ports are left out: past it, it is not they that are wrong.
	maxLeft = 20
	// retryChecks is after how many Checks what was refused is tried again.
	retryChecks = 10
)

// culprit is the port whose rule was refused; nil: it cannot be told. Its
// name is in the rule, if iptables-restore names a line, or in what it said.
func (b *Backend) culprit(err error, s *snapshot.Snapshot) *snapshot.Port {
	var refused *RefusedError
	if !errors.As(err, &refused) {
		return nil
	}
	text := refused.Rule + "\n" + refused.Said
	for _, svc := range s.Services {
		for _, p := range svc.Ports {
			if b.renderer.left[p] == "" && b.renderer.fragment(p).isNamed(text, p) {
				return p
			}
		}
	}
	return nil
}

// isNamed: by one of its chains, or by the comment of a rule in a chain that all share.
func (f *fragment) isNamed(text string, p *snapshot.Port) bool {
	if slices.ContainsFunc(f.chains, func(c Chain) bool { return strings.Contains(text, c.Name) }) {
		return true
	}
	return strings.Contains(text, `"`+p.Name+` `) || strings.Contains(text, `"`+p.Name+`"`)
}

// leftOut is what Sync says of ports without rules.
func (b *Backend) leftOut() error {
	if len(b.renderer.left) == 0 {
		return nil
	}
	out := &snapshot.LeftOutError{}
	for p, why := range b.renderer.left {
		out.Problems = append(out.Problems, snapshot.Problem{Object: "Service port " + p.Name + " " + string(p.Protocol), Reason: why})
	}
	slices.SortFunc(out.Problems, func(a, b snapshot.Problem) int { return strings.Compare(a.Object, b.Object) })
	return out
}

// tryAgain says so when it is time to try what was refused.
func (b *Backend) tryAgain() []string {
	if len(b.renderer.left) == 0 {
		return nil
	}
	if b.patience--; b.patience > 0 {
		return nil
	}
	b.applied = nil
	return []string{"rules that were refused are tried again"}
}
