package iptables

import "fmt"

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

// retryRefused says whether it is time to try refused rules again.
func (b *Backend) retryRefused() bool {
	if len(b.renderer.LeftOut()) == 0 {
		return false
	}
	b.patience--
	return b.patience <= 0
}
