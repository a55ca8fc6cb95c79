package modes

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/proxier"
	"github.com/nodeagent/nodeagent/pkg/proxier/localaddrs"
	"github.com/nodeagent/nodeagent/pkg/proxier/nftables"
	"github.com/nodeagent/nodeagent/pkg/proxier/nftables/elements"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
	"github.com/nodeagent/nodeagent/pkg/proxier/sysctl"
)

func nftablesMode() Mode {
	return Mode{
		Name:    config.ProxyNFTables,
		Program: programNFTables,
		Leaver: func(c Config, f corev1.IPFamily, _ proxier.Backend) (proxier.Leaver, error) {
			return nftables.NewLeaver(f, c.Log)
		},
		Installed: func(_ context.Context, c Config, f corev1.IPFamily) ([]Installed, error) {
			l, err := nftables.NewLeaver(f, c.Log)
			if err != nil {
				return nil, err
			}
			found, err := l.Found()
			if err != nil || !found {
				return nil, err
			}
			return []Installed{{What: fmt.Sprintf("the nftables table kube-proxy (%s)", f), Remove: l.Cleanup}}, nil
		},
		HostCheck: checkNFTables,
		Remedy:    "install the package nftables (nft 1.0.1 or newer), and use Linux 5.13 or newer",
		Periods:   periods,
		Sysctls:   func(config.Proxy) sysctl.Settings { return sysctl.Settings{} },
		Preview: func(c Config, s *snapshot.Snapshot) string {
			return elements.Render(s, nftablesOptions(c, s.Family)).String()
		},
	}
}

func programNFTables(c Config) Programmer {
	metrics := nftables.NewMetrics()
	return Programmer{
		Collectors: metrics.Collectors(),
		Backend: func(ctx context.Context, f corev1.IPFamily) (proxier.Backend, error) {
			if err := localaddrs.Supports(f); err != nil {
				return nil, err
			}
			nft, err := nftables.Detect(ctx, f)
			if err != nil {
				return nil, err
			}
			return nftables.New(nftables.Config{
				Options: nftablesOptions(c, f), Tool: nft, Kernel: nftables.NewReader(f), Log: c.Log, Metrics: metrics, Now: c.Now,
			})
		},
	}
}

// nftablesOptions are what the configuration says of one family's table.
func nftablesOptions(c Config, f corev1.IPFamily) elements.Options {
	p := c.Proxy
	return elements.Options{
		Family: f, MasqueradeBit: p.Rules.MasqueradeBit, MasqueradeAll: p.Rules.MasqueradeAll, TCPBeLiberal: p.Conntrack.TCPBeLiberal, Local: localTraffic(p, f),
	}
}

// checkNFTables returns the version of nft if the kernel accepts rules from it.
func checkNFTables(ctx context.Context) (string, error) {
	if _, err := nftables.Detect(ctx, corev1.IPv4Protocol); err != nil {
		return "", err
	}
	return nftables.Version(ctx)
}
