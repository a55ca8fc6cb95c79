package agent

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nodeagent/nodeagent/pkg/proxier/iptables"
	"github.com/nodeagent/nodeagent/pkg/proxier/nfacct"
)

// accounting makes the counters that rules count with, and says why they cannot.
func accounting(ctx context.Context, p *iptables.Program) error {
	if err := nfacct.Ensure(iptables.CountInvalid, iptables.CountLocalhost); err != nil {
		return err
	}
	return p.Accounting(ctx, iptables.CountInvalid)
}

// packetCounters are kube-proxy's metrics of what the kernel counts; without counters they are 0.
func packetCounters() []prometheus.Collector {
	var out []prometheus.Collector
	for counter, opts := range map[string]prometheus.CounterOpts{
		iptables.CountInvalid: {
			Name: "kubeproxy_iptables_ct_state_invalid_dropped_packets_total", Help: "Packets that were dropped because conntrack could not place them",
		},
		iptables.CountLocalhost: {
			Name: "kubeproxy_iptables_localhost_nodeports_accepted_packets_total", Help: "Packets that were let through to node ports on the loopback interface",
		},
	} {
		out = append(out, prometheus.NewCounterFunc(opts, func() float64 {
			packets, err := nfacct.Packets(counter)
			if err != nil {
				return 0 // why is in the log, since the start
			}
			return float64(packets)
		}))
	}
	return out
}
