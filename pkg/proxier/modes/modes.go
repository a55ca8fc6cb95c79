// Package modes is WIRING: the composition table of the services half. For each proxy mode it says
// how a backend is made, what it needs of the host and the kernel, what it counts, how its rules
// are previewed, and how they leave or are removed. No other package outside of a backend's folder
// names a mode, except config, which parses the names.
package modes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/proxier"
	"github.com/nodeagent/nodeagent/pkg/proxier/ipvs"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
	"github.com/nodeagent/nodeagent/pkg/proxier/sysctl"
)

// Mode is one row of the table. Every function but those of Program, Preview and HostCheck works
// for a mode that this version cannot program, too.
type Mode struct {
	Name config.ProxyMode
	// Program makes what programs the mode on this node; nil: this version cannot program it.
	Program func(Config) Programmer
	// Leaver makes what removes the mode's rules of a family without breaking a connection, once
	// current, the backend of another mode, has synced; nil: nothing has to be removed.
	Leaver func(c Config, f corev1.IPFamily, current proxier.Backend) (proxier.Leaver, error)
	// Installed finds what of the mode is on this machine in a family, ours or kube-proxy's.
	Installed func(ctx context.Context, c Config, f corev1.IPFamily) ([]Installed, error)
	// HostCheck returns what the machine has for the mode, or what it lacks.
	HostCheck func(ctx context.Context) (string, error)
	// Remedy is what to do if HostCheck fails.
	Remedy string
	// Periods are from the mode's part of the configuration.
	Periods func(config.Proxy) Periods
	// Sysctls are the kernel parameters that the mode needs.
	Sysctls func(config.Proxy) sysctl.Settings
	// Preview is the text of the rules for a snapshot.
	Preview func(Config, *snapshot.Snapshot) string
}

// Config is what the rows need.
type Config struct {
	Proxy config.Proxy
	// UtilChains is KubeletConfiguration makeIPTablesUtilChains.
	UtilChains bool
	// NodeIP is the node's address of a family, the zero value if it has none. nil: not known.
	NodeIP func(corev1.IPFamily) netip.Addr
	Log    *slog.Logger
	// Now is the clock; only Program needs it.
	Now func() time.Time
}

// Programmer programs a mode.
type Programmer struct {
	// Backend makes the backend of one family. An error says why this machine cannot program it;
	// it may be able to later.
	Backend func(ctx context.Context, f corev1.IPFamily) (proxier.Backend, error)
	// Collectors are the metrics of the mode, to be registered.
	Collectors []prometheus.Collector
}

// Periods of a Loop: proxier.Config's MinInterval and CheckInterval.
type Periods struct{ Min, Check time.Duration }

// Installed is something that a mode has put on this machine.
type Installed struct {
	// What it is, such as "Service rules (IPv4, 1.8.9 (nf_tables))".
	What string
	// Remove removes it at once, whatever uses it. It works twice.
	Remove func(ctx context.Context) error
}

// All is the table, in the order in which rules are removed: those of iptables refer to the ip
// sets of ipvs.
func All() []Mode { return []Mode{iptablesMode(), nftablesMode(), ipvsMode()} }

// Of is the row of a mode.
func Of(name config.ProxyMode) Mode {
	for _, m := range All() {
		if m.Name == name {
			return m
		}
	}
	return Mode{Name: name}
}

// Programmed is the row of the mode that is programmed where asked is asked for.
func Programmed(asked config.ProxyMode) Mode { return Of(asked.Programmed()) }

// Leavers are those of every mode but ours, for a family whose current backend is ours.
func Leavers(ours config.ProxyMode, c Config, f corev1.IPFamily, current proxier.Backend) ([]proxier.Leaver, error) {
	var out []proxier.Leaver
	for _, m := range All() {
		if m.Name == ours {
			continue
		}
		l, err := m.Leaver(c, f, current)
		if err != nil {
			return nil, err
		}
		if l != nil {
			out = append(out, l)
		}
	}
	return out, nil
}

// Find lists everything that any mode has put on this machine, in the order in which to remove it.
// What it finds is valid even with an error, which says where it could not look.
func Find(ctx context.Context, c Config) (found []Installed, err error) {
	for _, f := range []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol} {
		for _, m := range All() {
			list, failed := m.Installed(ctx, c, f)
			found = append(found, list...)
			err = errors.Join(err, failed)
		}
	}
	return found, err
}

// Cleanup removes everything that Find finds, and calls removed with each thing that it removed.
// It goes on after an error. It works twice.
func Cleanup(ctx context.Context, c Config, removed func(what string)) error {
	found, all := Find(ctx, c)
	for _, i := range found {
		if err := i.Remove(ctx); err != nil {
			all = errors.Join(all, fmt.Errorf("removing %s: %w", i.What, err))
			continue
		}
		removed(i.What)
	}
	return all
}

// Device is the network device that holds addresses of Services, not of the node.
const Device = ipvs.Device

// NodePorts are the addresses on which node ports answer.
func NodePorts(p config.Proxy) snapshot.NodePortAddresses {
	out := snapshot.NodePortAddresses{Localhost: p.Rules.LocalhostNodePorts}
	for _, a := range p.NodePortAddresses {
		if a == "primary" {
			out.Primary = true
		} else if prefix, err := netip.ParsePrefix(a); err == nil {
			out.Ranges = append(out.Ranges, prefix)
		}
	}
	return out
}

// periods are the same in every mode: config has chosen the section.
func periods(p config.Proxy) Periods {
	return Periods{Min: p.Rules.MinSyncPeriod, Check: p.Rules.SyncPeriod}
}

// Metric says which mode was asked for and which is programmed; its value is always 1.
func Metric(asked, programmed config.ProxyMode) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "nodeagent_proxy_mode", Help: "The proxy mode that was asked for, and the one that is programmed; the value is always 1.",
		ConstLabels: prometheus.Labels{"asked": string(asked), "programmed": string(programmed)},
	}, func() float64 { return 1 })
}
