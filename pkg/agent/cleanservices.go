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
	"github.com/nodeagent/nodeagent/pkg/reset"
)

// CleanServices removes the rules for Services from this machine, ours and those of a kube-proxy
// before us: in both variants of iptables, in nftables and in IPVS. Other programs' rules stay. It
// works twice.
func CleanServices(ctx context.Context, c *config.Config, log *slog.Logger) error {
	return cleanRules(ctx, c, log, func(what string) { log.Info(what) })
}

// InstalledRules finds what cleanRules would remove.
func InstalledRules(c *config.Config, log *slog.Logger) func(ctx context.Context) ([]reset.Rules, error) {
	return func(ctx context.Context) ([]reset.Rules, error) {
		found := false
		for _, f := range []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol} {
			cleaner, err := leftovers.New(leftovers.Config{Family: f, Exclude: c.Proxy.IPVS.ExcludeCIDRs, Log: log})
			if err != nil {
				return nil, err
			}
			ipvs, err := cleaner.Found()
			if err != nil {
				return nil, err
			}
			found = found || ipvs || len(iptables.InUse(ctx, f)) > 0
		}
		if !found {
			return nil, nil
		}
		return []reset.Rules{{What: "Service rules of every proxy mode", Remove: func(ctx context.Context) error { return CleanServices(ctx, c, log) }}}, nil
	}
}

// cleanRules removes the rules wherever there are any, and tells of each place that it did.
func cleanRules(ctx context.Context, c *config.Config, log *slog.Logger, did func(what string)) error {
	var all error
	for _, f := range []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol} {
		all = errors.Join(all, cleanFamily(ctx, c, f, log, did))
	}
	return all
}

func cleanFamily(ctx context.Context, c *config.Config, f corev1.IPFamily, log *slog.Logger, did func(what string)) error {
	var all error
	for _, program := range iptables.InUse(ctx, f) {
		backend, err := iptables.New(iptables.Config{Options: IPTablesOptions(c.Proxy, f), Tool: program, Log: log})
		if err == nil {
			err = backend.Cleanup(ctx)
		}
		if err != nil {
			all = errors.Join(all, fmt.Errorf("removing %s rules from %s: %w", f, program.Version(), err))
			continue
		}
		did(fmt.Sprintf("removed Service rules (%s, %s)", f, program.Version()))
	}
	cleaner, err := leftovers.New(leftovers.Config{Family: f, Exclude: c.Proxy.IPVS.ExcludeCIDRs, Log: log})
	if err != nil {
		return errors.Join(all, err)
	}
	cleaned, err := cleaner.Clean(ctx) // after the rules, which name its ip sets
	for _, what := range cleaned {
		did(what)
	}
	return errors.Join(all, err)
}

// hint tells other programs which variant of iptables this node uses, as kubelet does, where no
// services half does so.
func (a *Agent) hint(ctx context.Context) error {
	for _, f := range []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol} {
		if _, err := iptables.Detect(ctx, f, a.log); err != nil && ctx.Err() == nil {
			a.log.Info("No hint which iptables this node uses (KUBE-IPTABLES-HINT)", "family", f, "err", err)
		}
	}
	return nil
}
