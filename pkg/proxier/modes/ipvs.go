package modes

import (
	"context"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/proxier"
	"github.com/nodeagent/nodeagent/pkg/proxier/ipvs"
	"github.com/nodeagent/nodeagent/pkg/proxier/localaddrs"
	"github.com/nodeagent/nodeagent/pkg/proxier/sysctl"
)

// ipvsGuards is a backend that has taken over the iptables rules of mode ipvs.
type ipvsGuards = ipvs.Guards

func ipvsMode() Mode {
	return Mode{
		Name: config.ProxyIPVS,
		Leaver: func(c Config, f corev1.IPFamily, current proxier.Backend) (proxier.Leaver, error) {
			guards, _ := current.(ipvsGuards)
			return ipvsLeaver(c, f, guards)
		},
		Installed: func(_ context.Context, c Config, f corev1.IPFamily) ([]Installed, error) {
			l, err := ipvsLeaver(c, f, nil) // the guards are among the rules of mode iptables
			if err != nil {
				return nil, err
			}
			found, err := l.Found()
			if err != nil || !found {
				return nil, err
			}
			return []Installed{{What: fmt.Sprintf("kube-proxy's virtual servers and ip sets (%s)", f), Remove: l.Cleanup}}, nil
		},
		Periods: periods,
		Sysctls: func(config.Proxy) sysctl.Settings { return sysctl.Settings{} },
	}
}

func ipvsLeaver(c Config, f corev1.IPFamily, guards ipvsGuards) (*ipvs.Leaver, error) {
	var node netip.Addr
	if c.NodeIP != nil {
		node = c.NodeIP(f)
	}
	return ipvs.NewLeaver(ipvs.Config{
		Family: f, NodeIP: node, Exclude: c.Proxy.IPVS.ExcludeCIDRs, Guards: guards, Log: c.Log,
		Addresses: func() ([]netip.Addr, error) { return localaddrs.List(Device) },
	})
}
