package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/apiclient"
	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/node/footprint"
	"github.com/nodeagent/nodeagent/pkg/proxier"
	"github.com/nodeagent/nodeagent/pkg/proxier/conntrack"
	"github.com/nodeagent/nodeagent/pkg/proxier/healthcheck"
	"github.com/nodeagent/nodeagent/pkg/proxier/localaddrs"
	"github.com/nodeagent/nodeagent/pkg/proxier/modes"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
	"github.com/nodeagent/nodeagent/pkg/proxier/sysctl"
	"github.com/nodeagent/nodeagent/pkg/server"
	"github.com/nodeagent/nodeagent/pkg/status/report"
	"github.com/nodeagent/nodeagent/pkg/status/summary"
)

// servicesHalf is the services half.
type servicesHalf struct {
	shared
	mode     modes.Mode // that is programmed
	fallback string     // why it is not the one that was asked for; "": it is
	backend  func(ctx context.Context, f corev1.IPFamily) (proxier.Backend, error)
	tracker  *proxier.Tracker
	health   *proxier.Health
	metrics  *proxier.Metrics
	checks   *healthcheck.Server
	kernel   *sysctl.Keeper
	podCIDRs *proxier.PodCIDRs
}

// newServicesHalf makes the services half, unless it is off. own replaces the backend of the proxy
// mode.
func newServicesHalf(sh shared, own func(context.Context, corev1.IPFamily) (proxier.Backend, error)) (*servicesHalf, error) {
	p := sh.config.Proxy
	if p.Mode == config.ProxyOff {
		return nil, nil
	}
	s := &servicesHalf{shared: sh, mode: modes.Programmed(p.Mode), fallback: p.Mode.Fallback(), tracker: proxier.NewTracker(), metrics: proxier.NewMetrics(sh.now())}
	program := s.mode.Program(s.modeConfig())
	s.backend = program.Backend
	if own != nil {
		s.mode, s.fallback, s.backend = modes.Of(p.Mode), "", own
	}
	s.health = proxier.NewHealth(s.now, 2*s.mode.Periods(p).Check, s.tracker.NodeEligible)
	s.health.Primary(s.primary)
	s.metrics.Count(s.health)
	s.podCIDRs = &proxier.PodCIDRs{Needed: p.DetectLocal == "NodeCIDR", Primary: s.primary, Log: s.log}
	for _, m := range append(append(s.metrics.Collectors(), program.Collectors...), modes.Metric(p.Mode, s.mode.Name)) {
		if err := s.proxied.Register(m); err != nil {
			return nil, fmt.Errorf("registering a metric of the proxy: %w", err)
		}
	}
	if err := errors.Join(s.makeChecks(), s.makeKernel()); err != nil {
		return nil, err
	}
	if s.fallback != "" {
		s.log.Warn("Another proxy mode is programmed than was asked for", "reason", s.fallback)
		s.events.Event(report.NodeRef(s.config.Node.Name), corev1.EventTypeWarning, "ProxyModeFallback", s.fallback)
	}
	return s, s.feed()
}

// servicesParts are those of the services half. Without one, other programs still learn which
// variant of iptables this node uses.
func servicesParts(sh shared, s *servicesHalf) []part {
	switch {
	case s != nil:
		return s.parts()
	case sh.config.Network.UtilChains:
		return []part{{"iptables hint", func(ctx context.Context) error { modes.WriteHint(ctx, sh.log); return nil }, nil}}
	}
	return nil
}

func (s *servicesHalf) parts() []part {
	p := s.config.Proxy
	families := proxier.Families{Loop: s.loop, Primary: s.primary, Health: s.health, Log: s.log}
	parts := []part{
		{"kernel parameters", s.kernel.Run, nil},
		{"health check node ports", s.checks.Run, nil},
		{"local addresses", func(ctx context.Context) error {
			return localaddrs.Watch(ctx, s.log, modes.Device, s.tracker.AddressesChanged)
		}, nil},
		{"services", families.Run, func() bool { ok, _ := s.health.Healthy(); return ok }},
	}
	for _, page := range []struct {
		name    string
		at      netip.AddrPort
		handler http.Handler
	}{{"proxy health page", p.Healthz, s.health.Handler()}, {"proxy metrics page", p.Metrics, s.pages()}} {
		if page.at.IsValid() && page.at.Port() != 0 {
			parts = append(parts, part{page.name, server.NewPage(server.PageConfig{
				Listen: page.at, Ports: s.ports, Handler: page.handler, Remedy: "is kube-proxy running on this machine?", Hard: p.BindHardFail, Log: s.log,
			}).Run, nil})
		}
	}
	return parts
}

// endpoints learn from this node which of its pods are ready; nil: nobody does.
func (s *servicesHalf) endpoints() report.Endpoints {
	if s == nil || !s.config.Proxy.LocalEndpoints {
		return nil
	}
	return s.tracker
}

func (s *servicesHalf) modeConfig() modes.Config {
	return modes.Config{Proxy: s.config.Proxy, UtilChains: s.config.Network.UtilChains, NodeIP: s.nodeIP, Log: s.log}
}

// makeChecks makes what answers on health check node ports. Its event is kube-proxy's.
func (s *servicesHalf) makeChecks() (err error) {
	s.checks, err = healthcheck.New(healthcheck.Config{
		Log: s.log, Listen: new(net.ListenConfig).Listen,
		Healthy: func() bool { ok, _ := s.health.Healthy(); return ok },
		Failed: func(name types.NamespacedName, port uint16, err error) {
			s.events.Eventf(&corev1.ObjectReference{APIVersion: "v1", Kind: "Service", Namespace: name.Namespace, Name: name.Name},
				corev1.EventTypeWarning, "FailedToStartServiceHealthcheck",
				"node %s failed to start healthcheck %q on port %d: %v", s.config.Node.Name, name, port, err)
		},
	})
	return err
}

// makeKernel makes what sets kernel parameters.
func (s *servicesHalf) makeKernel() (err error) {
	p := s.config.Proxy
	wanted := func() []sysctl.Change {
		k := s.mode.Sysctls(p)
		k.MaxPerCore, k.Min, k.CPUs = p.Conntrack.MaxPerCore, p.Conntrack.Min, runtime.NumCPU()
		k.TCPEstablished, k.TCPCloseWait, k.TCPBeLiberal = p.Conntrack.TCPEstablished, p.Conntrack.TCPCloseWait, p.Conntrack.TCPBeLiberal
		k.UDP, k.UDPStream = p.Conntrack.UDP, p.Conntrack.UDPStream
		k.IPv4, k.IPv6 = s.nodeIP(corev1.IPv4Protocol).IsValid(), s.nodeIP(corev1.IPv6Protocol).IsValid()
		k.Bridged = sysctl.Kernel("/").Bridged()
		return sysctl.Plan(k)
	}
	s.kernel, err = sysctl.NewKeeper(sysctl.Config{Wanted: wanted, Sysctls: sysctl.Kernel("/"), Log: s.log, Problem: func(problem error) {
		s.events.Event(report.NodeRef(s.config.Node.Name), corev1.EventTypeWarning, "KernelParameter", problem.Error())
	}})
	return err
}

// feed passes every change of an object to the tracker.
func (s *servicesHalf) feed() error {
	return errors.Join(
		s.informers.OnService(s.tracker.ServiceChanged, s.tracker.ServicesSynced),
		s.informers.OnSlice(s.tracker.SliceChanged, s.tracker.SlicesSynced),
		s.informers.OnNode(func(_, n *corev1.Node) {
			if n != nil {
				s.tracker.NodeChanged(snapshot.NodeOf(n), snapshot.Eligible(n))
				s.podCIDRs.NodeChanged(snapshot.NodeOf(n))
			}
		}, nil),
	)
}

// primary is the family of the node's first address; IPv4 while none is known, as for kube-proxy.
func (s *servicesHalf) primary() corev1.IPFamily {
	if ips := s.addresses.List(); len(ips) > 0 && ips[0].Is6() {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

// nodeIP is the node's address of a family; the zero value: it has none.
func (s *servicesHalf) nodeIP(f corev1.IPFamily) netip.Addr {
	return snapshot.Node{Addresses: s.addresses.List()}.Primary(f)
}

// loop makes what programs one family.
func (s *servicesHalf) loop(ctx context.Context, f corev1.IPFamily) (*proxier.Loop, error) {
	backend, err := s.backend(ctx, f)
	if err != nil {
		return nil, err
	}
	flows := conntrack.Config{Family: f, Log: s.log, Now: s.now, Done: func(deleted int, took time.Duration) {
		s.metrics.ConntrackDuration.WithLabelValues(string(f)).Observe(took.Seconds())
		s.metrics.ConntrackDeleted.WithLabelValues(string(f)).Add(float64(deleted))
	}}
	if finder, ok := backend.(proxier.Finder); ok {
		flows.Found = finder.FoundUDP
	}
	cleaner, err := conntrack.New(flows)
	if err != nil {
		return nil, err
	}
	others, err := modes.Leavers(s.mode.Name, s.modeConfig(), f, backend)
	if err != nil {
		return nil, err
	}
	periods := s.mode.Periods(s.config.Proxy)
	return proxier.New(proxier.Config{
		Family: f, Tracker: s.tracker, Backend: backend, NodePorts: modes.NodePorts(s.config.Proxy), Others: others,
		Observers: []proxier.Observer{cleaner, s.checks}, MinInterval: periods.Min, CheckInterval: periods.Check,
		Idle: footprint.Trim, Health: s.health, Metrics: s.metrics, Log: s.log, Now: s.now,
	})
}

func (s *servicesHalf) pages() http.Handler {
	p := proxier.Pages{Mode: string(s.mode.Name), Metrics: server.MetricsHandler(s.proxied), Configz: func() any {
		return map[string]any{config.KubeProxyGroup: s.config.KubeProxyConfiguration()}
	}}
	if s.config.Proxy.Profiling {
		p.Profiles = server.HandleProfiles
	}
	return p.Handler()
}

// describe adds the families to what `nodeagent status` shows.
func (s *servicesHalf) describe(r *summary.Report) {
	services, endpoints := s.informers.Count()
	for _, f := range s.health.Status() {
		p := summary.Proxy{Family: string(f.Family), Backend: string(s.mode.Name), Services: services, Endpoints: endpoints, Synced: f.Synced}
		if f.Err != nil {
			p.LastError = f.Err.Error()
		}
		r.Proxy = append(r.Proxy, p)
	}
	r.Node.Warn(s.fallback)
	r.Node.Warn(s.podCIDRs.Problem())
	r.Node.Warnings = append(r.Node.Warnings, s.kernel.Problems()...)
	for _, problem := range s.checks.Problems() {
		r.Node.Warn(problem + "; it is tried again every few seconds")
	}
	for _, missing := range s.tracker.Missing() {
		r.Node.Warn("Services are not programmed yet: " + missing + " have not been read; " + apiclient.GrantHint)
	}
}
