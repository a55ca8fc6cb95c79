package iptables

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/proxier/iptables/rules"
)

// Find returns every variant of iptables that is installed, and writes no rule: it is for
// inspecting a machine; Detect is for programming it.
func Find(ctx context.Context, f corev1.IPFamily) ([]*Program, error) {
	name, proto := names(f)
	found, problems := installed(ctx, name, proto)
	if len(found) == 0 {
		return nil, fmt.Errorf("looking for %s: %w", name, errors.Join(problems...))
	}
	return found, nil
}

// Test returns an error if the kernel would not accept rules of this program; it writes none.
func (p *Program) Test(ctx context.Context) error {
	_, err := p.run(ctx, p.restore, []byte("*nat\n:"+rules.ChainHint+" - [0:0]\nCOMMIT\n"), "--test", "--noflush")
	if err != nil {
		return fmt.Errorf("trying %q: %w", p.path, err)
	}
	return nil
}
