package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"

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

// servicesConfig is what the services half is made of.
type servicesConfig struct {
	Config  *config.Config
	Watched *apiclient.Informers
	// Addresses are the node's own, the primary one first.
	Addresses func() []netip.Addr
	// Backend is the embedder's; nil: the one of Config.Proxy.Mode.
	Backend  func(ctx context.Context, f corev1.IPFamily) (proxier.Backend, error)
	Registry *prometheus.Registry // of the proxy's metrics port
	Events   record.EventRecorder
	Ports    *server.Ports
	Log      *slog.Logger
	Now      func() time.Time
}

// services is the services half.
type services struct {
	c        servicesConfig
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

// registerBoth has the ports of both halves serve what kubelet and kube-proxy each have of
// themselves: the process, and its requests to the API server. Every other series is on one port
// only, or whoever collects both would have it twice.
func registerBoth(kubelet, proxy *prometheus.Registry, all ...prometheus.Collector) {
	kubelet.MustRegister(all...)
	proxy.MustRegister(all...)
}

func newServices(c servicesConfig) (*services, error) {
	p := c.Config.Proxy
	s := &services{c: c, mode: modes.Programmed(p.Mode), fallback: p.Mode.Fallback(), tracker: proxier.NewTracker(), metrics: proxier.NewMetrics(c.Now())}
	program := s.mode.Program(s.modeConfig())
	s.backend = program.Backend
	if c.Backend != nil {
		s.mode, s.fallback, s.backend = modes.Of(p.Mode), "", c.Backend
	}
	s.health = proxier.NewHealth(c.Now, 2*s.mode.Periods(p).Check, s.tracker.NodeEligible)
	s.health.Primary(s.primary)
	s.metrics.Count(s.health)
	s.podCIDRs = &proxier.PodCIDRs{Needed: p.DetectLocal == "NodeCIDR", Primary: s.primary, Log: c.Log}
	for _, m := range append(append(s.metrics.Collectors(), program.Collectors...), modes.Metric(p.Mode, s.mode.Name)) {
		if err := c.Registry.Register(m); err != nil {
			return nil, fmt.Errorf("registering a metric of the proxy: %w", err)
		}
	}
	if err := errors.Join(s.makeChecks(), s.makeKernel()); err != nil {
		return nil, err
	}
	if s.fallback != "" {
		c.Log.Warn("Another proxy mode is programmed than was asked for", "reason", s.fallback)
		c.Events.Event(report.NodeRef(c.Config.Node.Name), corev1.EventTypeWarning, "ProxyModeFallback", s.fallback)
	}
	return s, s.feed()
}

func (s *services) modeConfig() modes.Config {
	return modes.Config{Proxy: s.c.Config.Proxy, UtilChains: s.c.Config.Network.UtilChains, NodeIP: s.nodeIP, Log: s.c.Log}
}

// makeChecks makes what answers on health check node ports. Its event is kube-proxy's.
func (s *services) makeChecks() (err error) {
	s.checks, err = healthcheck.New(healthcheck.Config{
		Log: s.c.Log, Listen: new(net.ListenConfig).Listen,
		Healthy: func() bool { ok, _ := s.health.Healthy(); return ok },
		Failed: func(name types.NamespacedName, port uint16, err error) {
			s.c.Events.Eventf(&corev1.ObjectReference{APIVersion: "v1", Kind: "Service", Namespace: name.Namespace, Name: name.Name},
				corev1.EventTypeWarning, "FailedToStartServiceHealthcheck",
				"node %s failed to start healthcheck %q on port %d: %v", s.c.Config.Node.Name, name, port, err)
		},
	})
	return err
}

// makeKernel makes what sets kernel parameters.
func (s *services) makeKernel() (err error) {
	p := s.c.Config.Proxy
	wanted := func() []sysctl.Change {
		k := s.mode.Sysctls(p)
		k.MaxPerCore, k.Min, k.CPUs = p.Conntrack.MaxPerCore, p.Conntrack.Min, runtime.NumCPU()
		k.TCPEstablished, k.TCPCloseWait, k.TCPBeLiberal = p.Conntrack.TCPEstablished, p.Conntrack.TCPCloseWait, p.Conntrack.TCPBeLiberal
		k.UDP, k.UDPStream = p.Conntrack.UDP, p.Conntrack.UDPStream
		k.IPv4, k.IPv6 = s.nodeIP(corev1.IPv4Protocol).IsValid(), s.nodeIP(corev1.IPv6Protocol).IsValid()
		k.Bridged = sysctl.Kernel("/").Bridged()
		return sysctl.Plan(k)
	}
	s.kernel, err = sysctl.NewKeeper(sysctl.Config{Wanted: wanted, Sysctls: sysctl.Kernel("/"), Log: s.c.Log, Problem: func(problem error) {
		s.c.Events.Event(report.NodeRef(s.c.Config.Node.Name), corev1.EventTypeWarning, "KernelParameter", problem.Error())
	}})
	return err
}

// feed passes every change of an object to the tracker.
func (s *services) feed() error {
	return errors.Join(
		s.c.Watched.OnService(s.tracker.ServiceChanged, s.tracker.ServicesSynced),
		s.c.Watched.OnSlice(s.tracker.SliceChanged, s.tracker.SlicesSynced),
		s.c.Watched.OnNode(func(_, n *corev1.Node) {
			if n != nil {
				s.tracker.NodeChanged(snapshot.NodeOf(n), snapshot.Eligible(n))
				s.podCIDRs.NodeChanged(snapshot.NodeOf(n))
			}
		}, nil),
	)
}

// primary is the family of the node's first address; IPv4 while none is known, as for kube-proxy.
func (s *services) primary() corev1.IPFamily {
	if ips := s.c.Addresses(); len(ips) > 0 && ips[0].Is6() {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

// nodeIP is the node's address of a family; the zero value: it has none.
func (s *services) nodeIP(f corev1.IPFamily) netip.Addr {
	return snapshot.Node{Addresses: s.c.Addresses()}.Primary(f)
}

// Run runs every part until ctx ends.
func (s *services) Run(ctx context.Context) error {
	p := s.c.Config.Proxy
	families := proxier.Families{Loop: s.loop, Primary: s.primary, Health: s.health, Log: s.c.Log}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.kernel.Run(ctx) })
	g.Go(func() error { return s.checks.Run(ctx) })
	g.Go(func() error { return localaddrs.Watch(ctx, s.c.Log, modes.Device, s.tracker.AddressesChanged) })
	g.Go(func() error { return families.Run(ctx) })
	serve := func(at netip.AddrPort, h http.Handler) {
		if at.IsValid() && at.Port() != 0 {
			page := server.NewPage(server.PageConfig{
				Listen: at, Ports: s.c.Ports, Handler: h, Remedy: "is kube-proxy running on this machine?", Hard: p.BindHardFail, Log: s.c.Log,
			})
			g.Go(func() error { return page.Run(ctx) })
		}
	}
	serve(p.Healthz, s.health.Handler())
	serve(p.Metrics, s.pages())
	return g.Wait()
}

// loop makes what programs one family.
func (s *services) loop(ctx context.Context, f corev1.IPFamily) (*proxier.Loop, error) {
	backend, err := s.backend(ctx, f)
	if err != nil {
		return nil, err
	}
	flows := conntrack.Config{Family: f, Log: s.c.Log, Now: s.c.Now, Done: func(deleted int, took time.Duration) {
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
	periods := s.mode.Periods(s.c.Config.Proxy)
	return proxier.New(proxier.Config{
		Family: f, Tracker: s.tracker, Backend: backend, NodePorts: modes.NodePorts(s.c.Config.Proxy), Others: others,
		Observers: []proxier.Observer{cleaner, s.checks}, MinInterval: periods.Min, CheckInterval: periods.Check,
		Idle: footprint.Trim, Health: s.health, Metrics: s.metrics, Log: s.c.Log, Now: s.c.Now,
	})
}

func (s *services) pages() http.Handler {
	p := proxier.Pages{Mode: string(s.mode.Name), Metrics: server.MetricsHandler(s.c.Registry), Configz: func() any {
		return map[string]any{config.KubeProxyGroup: s.c.Config.KubeProxyConfiguration()}
	}}
	if s.c.Config.Proxy.Profiling {
		p.Profiles = server.HandleProfiles
	}
	return p.Handler()
}

// describe adds the families to what `nodeagent status` shows.
func (s *services) describe(r *summary.Report) {
	services, endpoints := s.c.Watched.Count()
	for _, f := range s.health.Status() {
		p := summary.Proxy{Family: string(f.Family), Backend: string(s.mode.Name), Services: services, Endpoints: endpoints, Synced: f.Synced}
		if f.Err != nil {
			p.LastError = f.Err.Error()
		}
		r.Proxy = append(r.Proxy, p)
	}
	for _, warning := range []string{s.fallback, s.podCIDRs.Problem()} {
		if warning != "" {
			r.Node.Warnings = append(r.Node.Warnings, warning)
		}
	}
	r.Node.Warnings = append(r.Node.Warnings, s.kernel.Problems()...)
	for _, problem := range s.checks.Problems() {
		r.Node.Warnings = append(r.Node.Warnings, problem+"; it is tried again every few seconds")
	}
	for _, missing := range s.tracker.Missing() {
		r.Node.Warnings = append(r.Node.Warnings, "Services are not programmed yet: "+missing+" have not been read; "+apiclient.GrantHint)
	}
}
