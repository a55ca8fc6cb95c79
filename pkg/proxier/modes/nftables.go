package modes

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/proxier"
	"github.com/nodeagent/nodeagent/pkg/proxier/nftables"
	"github.com/nodeagent/nodeagent/pkg/proxier/sysctl"
)

func nftablesMode() Mode {
	return Mode{
		Name: config.ProxyNFTables,
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
			return []Installed{{What: fmt.Sprintf("kube-proxy's nftables table (%s)", f), Remove: l.Cleanup}}, nil
		},
		Periods: periods,
		Sysctls: func(config.Proxy) sysctl.Settings { return sysctl.Settings{} },
	}
}
