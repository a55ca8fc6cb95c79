package agent

import (
	"context"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/node/footprint"
	"github.com/nodeagent/nodeagent/pkg/proxier"
	"github.com/nodeagent/nodeagent/pkg/proxier/modes"
	"github.com/nodeagent/nodeagent/pkg/proxier/stack"
	"github.com/nodeagent/nodeagent/pkg/status/report"
)

// newServicesHalf makes the services half, unless it is off.
func newServicesHalf(s shared, own func(context.Context, corev1.IPFamily) (proxier.Backend, error)) (*stack.Stack, error) {
	if s.config.Proxy.Mode == config.ProxyOff {
		return nil, nil
	}
	return stack.New(stack.Config{
		Config: s.config, Informers: s.informers, Addresses: s.addresses.List, Backend: own, Registry: s.proxied, Events: s.events,
		Ports: s.ports, Idle: footprint.Trim, Now: s.now, Log: s.log,
	})
}

// servicesParts are those of the services half. Without one, other programs still learn which
// variant of iptables this node uses.
func servicesParts(s shared, half *stack.Stack) []part {
	switch {
	case half != nil:
		return []part{{"services half", half.Run, half.Ready}}
	case s.config.Network.UtilChains:
		return []part{{"iptables hint", func(ctx context.Context) error { modes.WriteHint(ctx, s.log); return nil }, nil}}
	}
	return nil
}

// endpoints learn from this node which of its pods are ready; nil: nobody does.
func endpoints(s shared, half *stack.Stack) report.Endpoints {
	if half == nil || !s.config.Proxy.LocalEndpoints {
		return nil
	}
	return half.Tracker()
}
