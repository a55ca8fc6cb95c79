package iptables

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
)

// Find returns every variant of iptables that is installed, and writes no rule: for looks at a
// machine, and for taking rules away wherever they are. Detect is for programming.
func Find(ctx context.Context, f corev1.IPFamily) ([]*Program, error) {
	name, proto := names(f)
	found, problems := installed(ctx, name, proto)
	if len(found) == 0 {
		return nil, fmt.Errorf("looking for %s: %w", name, errors.Join(problems...))
	}
	return found, nil
}

// Test says whether the kernel would take rules from this program; it writes none.
func (p *Program) Test(ctx context.Context) error {
	_, err := p.run(ctx, p.restore, []byte("*nat\n:"+chainHint+" - [0:0]\nCOMMIT\n"), "--test", "--noflush")
	if err != nil {
		return fmt.Errorf("trying %q: %w", p.path, err)
	}
	return nil
}
