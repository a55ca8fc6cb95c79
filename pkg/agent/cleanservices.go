package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/proxier/iptables"
	"github.com/nodeagent/nodeagent/pkg/proxier/leftovers"
)

// CleanServices removes the rules for Services from this machine, ours and those of a kube-proxy before us: in both
// variants of iptables, and in nftables. Other programs' rules stay. It works twice.
func CleanServices(ctx context.Context, c *config.Config, log *slog.Logger) error {
	all := cleanRules(ctx, c, log, func(f corev1.IPFamily, version string) {
		log.Info("Removed the rules for Services", "family", f, "iptables", version)
	})
	for _, f := range []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol} {
		cleaner, err := leftovers.New(leftovers.Config{Family: f, Log: log})
		if err == nil {
			err = cleaner.Clean(ctx)
		}
		all = errors.Join(all, err)
	}
	return all
}

// cleanRules removes the rules from every variant of iptables that has any, and tells of each that it did.
func cleanRules(ctx context.Context, c *config.Config, log *slog.Logger, did func(f corev1.IPFamily, version string)) error {
	var all error
	for _, f := range []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol} {
		for _, program := range iptables.InUse(ctx, f) {
			backend, err := iptables.New(iptables.Config{Options: IPTablesOptions(c.Proxy, f, nil), Tool: program, Log: log})
			if err == nil {
				err = backend.Cleanup(ctx)
			}
			if err != nil {
				all = errors.Join(all, fmt.Errorf("removing %s rules from %s: %w", f, program.Version(), err))
				continue
			}
			did(f, program.Version())
		}
	}
	return all
}

// hint tells other programs which variant of iptables this node uses, as kubelet does, where no services half does so.
func (a *Agent) hint(ctx context.Context) error {
	for _, f := range []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol} {
		if _, err := iptables.Detect(ctx, f, a.log); err != nil && ctx.Err() == nil {
			a.log.Info("No hint which iptables this node uses (KUBE-IPTABLES-HINT)", "family", f, "err", err)
		}
	}
	return nil
}
