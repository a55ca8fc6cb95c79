// Package stack is WIRING: the services half put together: tracker, loops, backend of the proxy
// mode, kernel parameters, health checks and kube-proxy's pages. The agent runs it as one part.
package stack

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

// Config of a Stack. Fields without a default are required.
type Config struct {
	Config    *config.Config
	Informers *apiclient.Informers
	// Addresses are the node's own, the primary one first.
	Addresses func() []netip.Addr
	// Backend replaces that of the proxy mode; nil: the mode has its own.
	Backend  func(ctx context.Context, f corev1.IPFamily) (proxier.Backend, error)
	Registry *prometheus.Registry // of the proxy's metrics port
	Events   record.EventRecorder
	Ports    *server.Ports
	// Idle is called after a burst of work, to give memory back.
	Idle func()
	Now  func() time.Time
	Log  *slog.Logger
}

// Stack is the services half.
type Stack struct {
	Config
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

// New makes the half and registers its metrics. It contacts nobody.
func New(c Config) (*Stack, error) {
	p := c.Config.Proxy
	s := &Stack{Config: c, mode: modes.Programmed(p.Mode), fallback: p.Mode.Fallback(), tracker: proxier.NewTracker(), metrics: proxier.NewMetrics(c.Now())}
	program := s.mode.Program(s.modeConfig())
	s.backend = program.Backend
	if c.Backend != nil {
		s.mode, s.fallback, s.backend = modes.Of(p.Mode), "", c.Backend
	}
	s.health = proxier.NewHealth(s.Now, 2*s.mode.Periods(p).Check, s.tracker.NodeEligible)
	s.health.Primary(s.primary)
	s.metrics.Count(s.health)
	s.podCIDRs = &proxier.PodCIDRs{Needed: p.DetectLocal == "NodeCIDR", Primary: s.primary, Log: s.Log}
	for _, m := range append(append(s.metrics.Collectors(), program.Collectors...), modes.Metric(p.Mode, s.mode.Name)) {
		if err := s.Registry.Register(m); err != nil {
			return nil, fmt.Errorf("registering a metric of the proxy: %w", err)
		}
	}
	if err := errors.Join(s.makeChecks(), s.makeKernel()); err != nil {
		return nil, err
	}
	if s.fallback != "" {
		s.Log.Warn("Another proxy mode is programmed than was asked for", "reason", s.fallback)
		s.Events.Event(report.NodeRef(s.Config.Config.Node.Name), corev1.EventTypeWarning, "ProxyModeFallback", s.fallback)
	}
	return s, s.feed()
}

// Tracker is told of changes of objects, and of this node's pods.
func (s *Stack) Tracker() *proxier.Tracker { return s.tracker }

// Ready says whether Services of the node's primary family are programmed.
func (s *Stack) Ready() bool {
	ok, _ := s.health.Healthy()
	return ok
}

// Run runs every part until ctx ends. Rules stay as they are then.
func (s *Stack) Run(ctx context.Context) error {
	p := s.Config.Config.Proxy
	families := proxier.Families{Loop: s.loop, Primary: s.primary, Health: s.health, Log: s.Log}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.kernel.Run(ctx) })
	g.Go(func() error { return s.checks.Run(ctx) })
	g.Go(func() error { return localaddrs.Watch(ctx, s.Log, modes.Device, s.tracker.AddressesChanged) })
	g.Go(func() error { return families.Run(ctx) })
	serve := func(at netip.AddrPort, h http.Handler) {
		if at.IsValid() && at.Port() != 0 {
			page := server.NewPage(server.PageConfig{
				Listen: at, Ports: s.Ports, Handler: h, Remedy: "is kube-proxy running on this machine?", Hard: p.BindHardFail, Log: s.Log,
			})
			g.Go(func() error { return page.Run(ctx) })
		}
	}
	serve(p.Healthz, s.health.Handler())
	serve(p.Metrics, s.pages())
	return g.Wait()
}

func (s *Stack) modeConfig() modes.Config {
	return modes.Config{Proxy: s.Config.Config.Proxy, UtilChains: s.Config.Config.Network.UtilChains, NodeIP: s.nodeIP, Log: s.Log, Now: s.Now}
}

// makeChecks makes what answers on health check node ports. Its event is kube-proxy's.
func (s *Stack) makeChecks() (err error) {
	s.checks, err = healthcheck.New(healthcheck.Config{
		Log: s.Log, Listen: new(net.ListenConfig).Listen,
		Healthy: s.Ready,
		Failed: func(name types.NamespacedName, port uint16, err error) {
			s.Events.Eventf(&corev1.ObjectReference{APIVersion: "v1", Kind: "Service", Namespace: name.Namespace, Name: name.Name},
				corev1.EventTypeWarning, "FailedToStartServiceHealthcheck",
				"node %s failed to start healthcheck %q on port %d: %v", s.Config.Config.Node.Name, name, port, err)
		},
	})
	return err
}

// makeKernel makes what sets kernel parameters.
func (s *Stack) makeKernel() (err error) {
	p := s.Config.Config.Proxy
	wanted := func() []sysctl.Change {
		k := s.mode.Sysctls(p)
		k.MaxPerCore, k.Min, k.CPUs = p.Conntrack.MaxPerCore, p.Conntrack.Min, runtime.NumCPU()
		k.TCPEstablished, k.TCPCloseWait, k.TCPBeLiberal = p.Conntrack.TCPEstablished, p.Conntrack.TCPCloseWait, p.Conntrack.TCPBeLiberal
		k.UDP, k.UDPStream = p.Conntrack.UDP, p.Conntrack.UDPStream
		k.IPv4, k.IPv6 = s.nodeIP(corev1.IPv4Protocol).IsValid(), s.nodeIP(corev1.IPv6Protocol).IsValid()
		k.Bridged = sysctl.Kernel("/").Bridged()
		return sysctl.Plan(k)
	}
	s.kernel, err = sysctl.NewKeeper(sysctl.Config{Wanted: wanted, Sysctls: sysctl.Kernel("/"), Log: s.Log, Problem: func(problem error) {
		s.Events.Event(report.NodeRef(s.Config.Config.Node.Name), corev1.EventTypeWarning, "KernelParameter", problem.Error())
	}})
	return err
}

// feed passes every change of an object to the tracker.
func (s *Stack) feed() error {
	return errors.Join(
		s.Informers.OnService(s.tracker.ServiceChanged, s.tracker.ServicesSynced),
		s.Informers.OnSlice(s.tracker.SliceChanged, s.tracker.SlicesSynced),
		s.Informers.OnNode(func(_, n *corev1.Node) {
			if n != nil {
				s.tracker.NodeChanged(snapshot.NodeOf(n), snapshot.Eligible(n))
				s.podCIDRs.NodeChanged(snapshot.NodeOf(n))
			}
		}, nil),
	)
}

// primary is the family of the node's first address; IPv4 while none is known, as for kube-proxy.
func (s *Stack) primary() corev1.IPFamily {
	if ips := s.Addresses(); len(ips) > 0 && ips[0].Is6() {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

// nodeIP is the node's address of a family; the zero value: it has none.
func (s *Stack) nodeIP(f corev1.IPFamily) netip.Addr {
	return snapshot.Node{Addresses: s.Addresses()}.Primary(f)
}

// loop makes what programs one family.
func (s *Stack) loop(ctx context.Context, f corev1.IPFamily) (*proxier.Loop, error) {
	backend, err := s.backend(ctx, f)
	if err != nil {
		return nil, err
	}
	flows := conntrack.Config{Family: f, Log: s.Log, Now: s.Now, Done: func(deleted int, took time.Duration) {
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
	periods := s.mode.Periods(s.Config.Config.Proxy)
	return proxier.New(proxier.Config{
		Family: f, Tracker: s.tracker, Backend: backend, NodePorts: modes.NodePorts(s.Config.Config.Proxy), Others: others,
		Observers: []proxier.Observer{cleaner, s.checks}, MinInterval: periods.Min, CheckInterval: periods.Check,
		Idle: s.Idle, Health: s.health, Metrics: s.metrics, Log: s.Log, Now: s.Now,
	})
}

func (s *Stack) pages() http.Handler {
	p := proxier.Pages{Mode: string(s.mode.Name), Metrics: server.MetricsHandler(s.Registry), Configz: func() any {
		return map[string]any{config.KubeProxyGroup: s.Config.Config.KubeProxyConfiguration()}
	}}
	if s.Config.Config.Proxy.Profiling {
		p.Profiles = server.HandleProfiles
	}
	return p.Handler()
}

// Describe adds the families to what `nodeagent status` shows.
func (s *Stack) Describe(r *summary.Report) {
	services, endpoints := s.Informers.Count()
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
		warning := "Services are not programmed yet: " + missing + " have not been read"
		if missing == "endpointslices" {
			warning += "; " + apiclient.GrantHint
		}
		r.Node.Warn(warning)
	}
}
