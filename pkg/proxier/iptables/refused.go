package iptables

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

const (
	// maxLeftOut bounds how many ports are left out: if more are refused, the reason is another.
	maxLeftOut = 20
	// retryChecks is after how many Checks refused rules are tried again.
	retryChecks = 10
)

// RefusedError is what iptables-restore said when it refused its input.
type RefusedError struct {
	// Line of the input that it names, from 1; 0: none.
	Line int
	// Rule is that line.
	Rule string
	// Said is its standard error.
	Said string
}

// Error is what the program said.
func (e *RefusedError) Error() string {
	if e.Rule == "" {
		return "iptables-restore refused: " + e.Said
	}
	return fmt.Sprintf("iptables-restore refused %q: %s", e.Rule, e.Said)
}

// leftOut is what Sync returns: nil if every port has rules.
func (b *Backend) leftOut() error {
	left := b.renderer.LeftOut()
	if len(left) == 0 {
		return nil
	}
	out := &snapshot.LeftOutError{}
	for p, why := range left {
		out.Problems = append(out.Problems, snapshot.Problem{Object: "Service port " + p.Name + " " + string(p.Protocol), Reason: why})
	}
	slices.SortFunc(out.Problems, func(a, b snapshot.Problem) int { return strings.Compare(a.Object, b.Object) })
	return out
}

// retryRefused says whether it is time to try refused rules again.
func (b *Backend) retryRefused() bool {
	if len(b.renderer.LeftOut()) == 0 {
		return false
	}
	b.patience--
	return b.patience <= 0
}
