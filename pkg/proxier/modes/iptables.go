package modes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/proxier"
	"github.com/nodeagent/nodeagent/pkg/proxier/iptables"
	"github.com/nodeagent/nodeagent/pkg/proxier/iptables/rules"
	"github.com/nodeagent/nodeagent/pkg/proxier/localaddrs"
	"github.com/nodeagent/nodeagent/pkg/proxier/nfacct"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
	"github.com/nodeagent/nodeagent/pkg/proxier/sysctl"
)

func iptablesMode() Mode {
	return Mode{
		Name:      config.ProxyIPTables,
		Program:   programIPTables,
		Leaver:    iptablesLeaver,
		Installed: installedIPTables,
		HostCheck: checkIPTables,
		Remedy:    "install iptables",
		Periods:   periods,
		Sysctls: func(p config.Proxy) sysctl.Settings {
			return sysctl.Settings{LocalhostNodePorts: NodePorts(p).At(corev1.IPv4Protocol, snapshot.Node{}).Loopback}
		},
		Preview: previewIPTables,
	}
}

func programIPTables(c Config) Programmer {
	metrics := iptables.NewMetrics()
	return Programmer{
		Collectors: append(metrics.Collectors(), packetCounters()...),
		Backend: func(ctx context.Context, f corev1.IPFamily) (proxier.Backend, error) {
			if err := localaddrs.Supports(f); err != nil {
				return nil, err
			}
			program, err := iptables.Detect(ctx, f, c.Log)
			if err != nil {
				return nil, err
			}
			if err := program.Translates(ctx); err != nil {
				return nil, err
			}
			o := iptablesOptions(c, f)
			o.RandomFully = program.RandomFully()
			if err := accounting(ctx, program); err != nil {
				c.Log.Info("Packets dropped as INVALID, and packets to node ports on 127.0.0.1, are not counted", "family", f, "err", err)
			} else {
				o.Accounting = true
			}
			return iptables.New(iptables.Config{Options: o, Tool: program, Log: c.Log, Metrics: metrics})
		},
	}
}

// iptablesOptions are what the configuration says of one family's rules.
func iptablesOptions(c Config, f corev1.IPFamily) rules.Options {
	p := c.Proxy
	return rules.Options{
		Family: f, MasqueradeBit: p.Rules.MasqueradeBit, MasqueradeAll: p.Rules.MasqueradeAll, TCPBeLiberal: p.Conntrack.TCPBeLiberal,
		Localhost: NodePorts(p).At(f, snapshot.Node{}).Loopback, Local: localTraffic(p, f), NoFirewall: !c.UtilChains,
	}
}

// localTraffic is detectLocalMode.
func localTraffic(p config.Proxy, f corev1.IPFamily) snapshot.LocalTraffic {
	switch p.DetectLocal {
	case "BridgeInterface":
		return snapshot.LocalTraffic{Interface: p.Interface}
	case "InterfaceNamePrefix":
		return snapshot.LocalTraffic{Interface: p.Interface, Prefix: true}
	case "NodeCIDR":
		return snapshot.LocalTraffic{NodeCIDR: true}
	}
	for _, r := range p.ClusterCIDRs {
		if r.Addr().Is4() == (f == corev1.IPv4Protocol) {
			return snapshot.LocalTraffic{CIDR: r}
		}
	}
	return snapshot.LocalTraffic{}
}

// accounting makes the packet counters that rules use, or says why rules cannot use them.
func accounting(ctx context.Context, p *iptables.Program) error {
	if err := nfacct.Ensure(rules.CountInvalid, rules.CountLocalhost); err != nil {
		return err
	}
	return p.Accounting(ctx, rules.CountInvalid)
}

// packetCounters are kube-proxy's metrics of packet counters; without counters they are 0.
func packetCounters() []prometheus.Collector {
	counter := func(counter, name, help string) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 {
			packets, err := nfacct.Packets(counter)
			if err != nil {
				return 0 // accounting has logged why
			}
			return float64(packets)
		})
	}
	return []prometheus.Collector{
		counter(rules.CountInvalid, "kubeproxy_iptables_ct_state_invalid_dropped_packets_total",
			"Packets that were dropped because conntrack could not place them"),
		counter(rules.CountLocalhost, "kubeproxy_iptables_localhost_nodeports_accepted_packets_total",
			"Packets that were let through to node ports on the loopback interface"),
	}
}

// iptablesLeaver is not needed beside a backend that writes its own rules through an
// iptables.Engine: the engine has removed the chains that the backend does not want. Beside others
// only the hint stays, which is kubelet's and not kube-proxy's.
func iptablesLeaver(c Config, f corev1.IPFamily, current proxier.Backend) (proxier.Leaver, error) {
	if _, shared := current.(ipvsGuards); shared {
		return nil, nil
	}
	return leaving(func(ctx context.Context) error {
		if err := removeIPTables(ctx, c, f); err != nil {
			return err
		}
		if c.UtilChains {
			writeHint(ctx, f, c.Log)
		}
		return nil
	}), nil
}

// leaving is a Leaver that never waits: conntrack keeps the translation of connections.
type leaving func(context.Context) error

// Leave implements proxier.Leaver.
func (l leaving) Leave(ctx context.Context) (waiting int, err error) { return 0, l(ctx) }

func removeIPTables(ctx context.Context, c Config, f corev1.IPFamily) error {
	found, err := installedIPTables(ctx, c, f)
	for _, i := range found {
		err = errors.Join(err, i.Remove(ctx))
	}
	return err
}

// installedIPTables looks into both variants of iptables.
func installedIPTables(ctx context.Context, c Config, f corev1.IPFamily) ([]Installed, error) {
	var found []Installed
	o := iptablesOptions(c, f)
	o.NoFirewall = false // Remove removes its jumps, too
	for _, program := range iptables.InUse(ctx, f) {
		backend, err := iptables.New(iptables.Config{Options: o, Tool: program, Log: c.Log})
		if err != nil {
			return found, err
		}
		found = append(found, Installed{What: fmt.Sprintf("Service rules (%s, %s)", f, program.Version()), Remove: backend.Cleanup})
	}
	return found, nil
}

// checkIPTables returns the version of the first iptables that the kernel accepts.
func checkIPTables(ctx context.Context) (string, error) {
	found, err := iptables.Find(ctx, corev1.IPv4Protocol)
	for _, program := range found {
		if err = program.Test(ctx); err == nil {
			return "iptables " + program.Version(), nil
		}
	}
	return "", err
}

// previewIPTables is the input of iptables-restore; the rules in built-in chains are comments.
func previewIPTables(c Config, s *snapshot.Snapshot) string {
	o := iptablesOptions(c, s.Family)
	o.RandomFully = true // as every iptables of the last years
	var b strings.Builder
	b.WriteString("# These stand first in the built-in chains, in this order:\n")
	for _, j := range rules.Jumps(o) {
		fmt.Fprintf(&b, "#   -t %s -A %s %s\n", j.Table, j.From, quoted(j.Rule))
	}
	b.WriteString(rules.Render(s, o).String())
	return b.String()
}

// quoted is a rule as a shell takes it.
func quoted(words []string) string {
	out := make([]string, 0, len(words))
	for _, w := range words {
		if strings.ContainsAny(w, " \"'$") {
			w = fmt.Sprintf("%q", w)
		}
		out = append(out, w)
	}
	return strings.Join(out, " ")
}

// WriteHint tells other programs which variant of iptables this node uses, as kubelet does. It is
// for nodes whose services half is off: mode iptables writes it as it starts, and any other mode
// after it has removed the rules of mode iptables.
func WriteHint(ctx context.Context, log *slog.Logger) {
	for _, f := range []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol} {
		writeHint(ctx, f, log)
	}
}

func writeHint(ctx context.Context, f corev1.IPFamily, log *slog.Logger) {
	if _, err := iptables.Detect(ctx, f, log); err != nil && ctx.Err() == nil {
		log.Info("Writing the hint which iptables this node uses (KUBE-IPTABLES-HINT) failed", "family", f, "err", err)
	}
}
