package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"

	"github.com/nodeagent/nodeagent/pkg/apiclient"
	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/node/facts"
	"github.com/nodeagent/nodeagent/pkg/node/footprint"
	"github.com/nodeagent/nodeagent/pkg/proxier"
	"github.com/nodeagent/nodeagent/pkg/proxier/conntrack"
	"github.com/nodeagent/nodeagent/pkg/proxier/healthcheck"
	"github.com/nodeagent/nodeagent/pkg/proxier/iptables"
	"github.com/nodeagent/nodeagent/pkg/proxier/leftovers"
	"github.com/nodeagent/nodeagent/pkg/proxier/localaddrs"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
	"github.com/nodeagent/nodeagent/pkg/proxier/sysctl"
	"github.com/nodeagent/nodeagent/pkg/server"
	"github.com/nodeagent/nodeagent/pkg/sleep"
	"github.com/nodeagent/nodeagent/pkg/status/report"
	"github.com/nodeagent/nodeagent/pkg/status/summary"
)

// services is the services half: its loops, one for each address family that the machine can do.
type services struct {
	config  *config.Config
	watched *apiclient.Informers
	tracker *proxier.Tracker
	health  *proxier.Health
	metrics *proxier.Metrics
	log     *slog.Logger
	now     func() time.Time
	// addresses are the node's own.
	addresses *facts.NodeIPs
	// backend makes what programs a family; the embedder's or detected.
	backend func(ctx context.Context, f corev1.IPFamily) (proxier.Backend, error)
	given   bool                // backend is the embedder's
	page    http.Handler        // /metrics
	checks  *healthcheck.Server // healthCheckNodePort
	kernel  *sysctl.Keeper
	ports   *server.Ports
	// unranged: the log has last said that the node's podCIDR is missing.
	unranged atomic.Bool
}

// registerBoth has the ports of both halves serve what kubelet and kube-proxy each have of
// themselves: the process, and its requests to the API server. Every other series is on one port
// only, or whoever collects both would have it twice.
func registerBoth(kubelet, proxy *prometheus.Registry, all ...prometheus.Collector) {
	kubelet.MustRegister(all...)
	proxy.MustRegister(all...)
}

// modes says which proxy mode was asked for and which is programmed; the value is always 1.
func (s *services) modes() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "nodeagent_proxy_mode", Help: "The proxy mode that was asked for, and the one that is programmed; the value is always 1.",
		ConstLabels: prometheus.Labels{"asked": string(s.config.Proxy.Mode), "programmed": string(s.mode())},
	}, func() float64 { return 1 })
}

func newServices(a *Agent) (*services, error) {
	c, o := a.config, a.options
	s := &services{
		config: c, watched: a.watched, tracker: proxier.NewTracker(), metrics: proxier.NewMetrics(o.Now()), log: a.log, now: o.Now, addresses: a.addresses,
		backend: o.Backend, given: o.Backend != nil, page: server.MetricsHandler(a.proxied), ports: a.ports,
	}
	s.health = proxier.NewHealth(o.Now, 2*c.Proxy.IPTables.SyncPeriod, s.tracker.NodeEligible)
	s.health.Primary(s.primary)
	s.metrics.Count(s.health)
	for _, m := range append(append(s.metrics.Collectors(), packetCounters()...), s.modes()) {
		if err := a.proxied.Register(m); err != nil {
			return nil, fmt.Errorf("registering a metric of the proxy: %w", err)
		}
	}
	if err := errors.Join(s.makeChecks(a.events), s.makeKernel(a.events)); err != nil {
		return nil, err
	}
	if !s.given {
		s.backend = s.detect
	}
	s.tellFallback(a.events)
	return s, s.feed()
}

// makeChecks makes what answers on health check node ports. Its event is kube-proxy's.
func (s *services) makeChecks(events record.EventRecorder) (err error) {
	s.checks, err = healthcheck.New(healthcheck.Config{
		Log: s.log, NodePorts: nodePorts(s.config.Proxy), Addresses: localaddrs.List, Listen: new(net.ListenConfig).Listen,
		Healthy: func() bool {
			ok, _ := s.health.Healthy()
			return ok
		},
		Failed: func(name types.NamespacedName, port uint16, err error) {
			events.Eventf(&corev1.ObjectReference{APIVersion: "v1", Kind: "Service", Namespace: name.Namespace, Name: name.Name},
				corev1.EventTypeWarning, "FailedToStartServiceHealthcheck",
				"node %s failed to start healthcheck %q on port %d: %v", s.config.Node.Name, name, port, err)
		},
	})
	return err
}

// makeKernel makes what sets the kernel's parameters.
func (s *services) makeKernel(events record.EventRecorder) (err error) {
	s.kernel, err = sysctl.NewKeeper(sysctl.Config{
		Wanted: func() []sysctl.Change { return sysctl.Plan(s.sysctls()) }, Sysctls: sysctl.Kernel("/"), Log: s.log,
		Told: func(problem error) {
			events.Event(report.NodeRef(s.config.Node.Name), corev1.EventTypeWarning, "KernelParameter", problem.Error())
		},
	})
	return err
}

// tellFallback tells, once, that another mode is programmed than was asked for.
func (s *services) tellFallback(events record.EventRecorder) {
	if fallback := s.fallback(); fallback != "" {
		s.log.Warn("Another proxy mode stands in for the one that was asked for", "why", fallback)
		events.Event(report.NodeRef(s.config.Node.Name), corev1.EventTypeWarning, "ProxyModeFallback", fallback)
	}
}

// fallback says why the mode is not what was asked for; "": it is.
func (s *services) fallback() string {
	if s.given {
		return "" // the embedder's backend is what it is
	}
	return s.config.Proxy.Mode.Fallback()
}

// mode is what is programmed.
func (s *services) mode() config.ProxyMode {
	if s.given {
		return s.config.Proxy.Mode
	}
	return s.config.Proxy.Mode.Programmed()
}

// feed hands every change to the tracker.
func (s *services) feed() error {
	return errors.Join(
		s.watched.OnService(s.tracker.ServiceChanged, s.tracker.ServicesSynced),
		s.watched.OnSlice(s.tracker.SliceChanged, s.tracker.SlicesSynced),
		s.watched.OnNode(func(_, n *corev1.Node) {
			if n != nil {
				s.tracker.NodeChanged(snapshot.NodeOf(n), snapshot.Eligible(n))
				s.tellPodCIDR(n)
			}
		}, nil),
	)
}

// tellPodCIDR logs when the range of pods that detectLocalMode NodeCIDR needs is missing, and when
// it has come.
func (s *services) tellPodCIDR(n *corev1.Node) {
	missing := s.missesPodCIDR(n)
	if s.unranged.Swap(missing) == missing {
		return
	}
	if missing {
		s.log.Warn(noPodCIDR)
	} else {
		s.log.Info("Traffic of this node's pods is told by the node's range", "podCIDRs", n.Spec.PodCIDRs)
	}
}

const noPodCIDR = "The node has no podCIDR, which detectLocalMode NodeCIDR needs: no traffic counts as that of its pods until the control plane assigns one " +
	"(kube-controller-manager --allocate-node-cidrs), or detectLocalMode says otherwise"

// missesPodCIDR says whether NodeCIDR is asked for and the node has none of its primary family.
func (s *services) missesPodCIDR(n *corev1.Node) bool {
	return s.config.Proxy.DetectLocal == "NodeCIDR" && !snapshot.NodeOf(n).PodCIDR(s.primary()).IsValid()
}

// detect finds the iptables of this machine.
func (s *services) detect(ctx context.Context, f corev1.IPFamily) (proxier.Backend, error) {
	if err := localaddrs.Supports(f); err != nil {
		return nil, err
	}
	program, err := iptables.Detect(ctx, f, s.log)
	if err != nil {
		return nil, err
	}
	if err := program.Translates(ctx); err != nil {
		return nil, err
	}
	o := IPTablesOptions(s.config.Proxy, f)
	o.RandomFully, o.NoFirewall = program.RandomFully(), !s.config.Network.UtilChains
	if err := accounting(ctx, program); err != nil {
		s.log.Info("Packets dropped as INVALID, and those to node ports on 127.0.0.1, are not counted", "family", f, "err", err)
	} else {
		o.Accounting = true
	}
	return iptables.New(iptables.Config{Options: o, Tool: program, Log: s.log, Metrics: s.metrics.IPTables(f)})
}

// IPTablesOptions are what the configuration says of one family's rules.
func IPTablesOptions(p config.Proxy, f corev1.IPFamily) iptables.Options {
	return iptables.Options{
		Family: f, MasqueradeBit: p.IPTables.MasqueradeBit, MasqueradeAll: p.IPTables.MasqueradeAll, TCPBeLiberal: p.Conntrack.TCPBeLiberal,
		NodePorts: nodePorts(p), Local: localTraffic(p, f),
	}
}

func nodePorts(p config.Proxy) snapshot.NodePortAddresses {
	out := snapshot.NodePortAddresses{Localhost: p.IPTables.LocalhostNodePorts}
	for _, a := range p.NodePortAddresses {
		if a == "primary" {
			out.Primary = true
		} else if prefix, err := netip.ParsePrefix(a); err == nil {
			out.Ranges = append(out.Ranges, prefix)
		}
	}
	return out
}

// localTraffic says how traffic of this node's pods is told from other traffic.
func localTraffic(p config.Proxy, f corev1.IPFamily) iptables.Local {
	switch p.DetectLocal {
	case "BridgeInterface":
		return iptables.Local{Interface: p.Interface}
	case "InterfaceNamePrefix":
		return iptables.Local{Interface: p.Interface + "+"}
	case "NodeCIDR":
		return iptables.Local{NodeCIDR: true}
	}
	for _, r := range p.ClusterCIDRs {
		if r.Addr().Is4() == (f == corev1.IPv4Protocol) {
			return iptables.Local{CIDR: r}
		}
	}
	return iptables.Local{}
}

// primary is the family of the node's first address, which it cannot do without. Until that is
// known it is IPv4, as for kube-proxy.
func (s *services) primary() corev1.IPFamily {
	if ips := s.addresses.List(); len(ips) > 0 && ips[0].Is6() {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

// Run programs every family until ctx ends, whatever addresses the node has: Services may have
// either.
func (s *services) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.kernel.Run(ctx) })
	g.Go(func() error { return s.checks.Run(ctx) })
	g.Go(func() error { return localaddrs.Watch(ctx, s.log, func() { s.checks.AddressesChanged(ctx) }) })
	s.runFamilies(ctx, g)
	s.runPages(ctx, g)
	return g.Wait()
}

func (s *services) runFamilies(ctx context.Context, g *errgroup.Group) {
	for _, f := range []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol} {
		g.Go(func() error { return s.runFamily(ctx, f) })
	}
}

// runFamily programs one family until ctx ends. A machine without its iptables has its pods all
// the same, and is looked at again: the program may be installed any moment.
func (s *services) runFamily(ctx context.Context, f corev1.IPFamily) error {
	said := ""
	for pause := time.Second; ; pause = min(2*pause, time.Minute) {
		loop, cleaner, err := s.loop(ctx, f)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // the end was asked for
		case err == nil:
			g, ctx := errgroup.WithContext(ctx)
			g.Go(func() error { return cleaner.Run(ctx) })
			g.Go(func() error { return loop.Run(ctx) })
			return g.Wait()
		}
		s.health.Failed(f, err)
		switch {
		case f == s.primary():
			s.log.Error("Services of the node's address family are not programmed", "family", f, "err", err, "retryIn", pause)
		case err.Error() != said:
			s.log.Info("Services of an address family are not programmed: this machine cannot; the other one does not wait for it", "family", f, "err", err)
		}
		said = err.Error()
		if sleep.For(ctx, pause) != nil {
			return nil
		}
	}
}

// loop makes what programs one family, and what cleans up after a kube-proxy in another mode.
func (s *services) loop(ctx context.Context, f corev1.IPFamily) (*proxier.Loop, *leftovers.Cleaner, error) {
	backend, err := s.backend(ctx, f)
	if err != nil {
		return nil, nil, err
	}
	var portals func() []snapshot.Portal
	if b, ok := backend.(interface{ FoundUDP() []snapshot.Portal }); ok {
		portals = b.FoundUDP
	}
	flows, err := conntrack.New(conntrack.Config{Family: f, Log: s.log, Now: s.now, NodePorts: nodePorts(s.config.Proxy), Portals: portals, Done: func(deleted int, took time.Duration) {
		s.metrics.ConntrackDuration.WithLabelValues(string(f)).Observe(took.Seconds())
		s.metrics.ConntrackDeleted.WithLabelValues(string(f)).Add(float64(deleted))
	}})
	if err != nil {
		return nil, nil, err
	}
	rules, _ := backend.(leftovers.Rules)
	cleaner, err := leftovers.New(leftovers.Config{
		Family: f, Rules: rules, NodeIP: s.nodeIP(f), Exclude: s.config.Proxy.IPVS.ExcludeCIDRs, Log: s.log,
	})
	if err != nil {
		return nil, nil, err
	}
	loop, err := proxier.New(proxier.Config{
		Family: f, Tracker: s.tracker, Backend: backend, Observers: []proxier.Observer{flows, s.checks, cleaner},
		MinInterval: s.config.Proxy.IPTables.MinSyncPeriod, CheckInterval: s.config.Proxy.IPTables.SyncPeriod,
		Settled: footprint.Trim, Health: s.health, Metrics: s.metrics, Log: s.log, Now: s.now,
	})
	return loop, cleaner, err
}

// nodeIP is the node's address of a family; the zero value: it has none.
func (s *services) nodeIP(f corev1.IPFamily) netip.Addr {
	for _, ip := range s.addresses.List() {
		if ip.Is4() == (f == corev1.IPv4Protocol) {
			return ip
		}
	}
	return netip.Addr{}
}

// sysctls are the kernel's settings as the configuration wants them.
func (s *services) sysctls() sysctl.Settings {
	p := s.config.Proxy
	return sysctl.Settings{
		MaxPerCore: p.Conntrack.MaxPerCore, Min: p.Conntrack.Min, CPUs: runtime.NumCPU(),
		TCPEstablished: p.Conntrack.TCPEstablished, TCPCloseWait: p.Conntrack.TCPCloseWait,
		UDP: p.Conntrack.UDP, UDPStream: p.Conntrack.UDPStream, TCPBeLiberal: p.Conntrack.TCPBeLiberal,
		LocalhostNodePorts: IPTablesOptions(p, corev1.IPv4Protocol).Localhost(),
		IPv4:               s.nodeIP(corev1.IPv4Protocol).IsValid(), IPv6: s.nodeIP(corev1.IPv6Protocol).IsValid(),
		Bridged: sysctl.Kernel("/").Bridged(),
	}
}

// describe adds the families to what `nodeagent status` shows.
func (s *services) describe(r *summary.Report) {
	services, endpoints := s.watched.Count()
	for _, f := range s.health.Status() {
		p := summary.Proxy{
			Family: string(f.Family), Backend: string(s.mode()), Services: services, Endpoints: endpoints, Synced: f.Synced,
		}
		if f.Err != nil {
			p.LastError = f.Err.Error()
		}
		r.Proxy = append(r.Proxy, p)
	}
	if fallback := s.fallback(); fallback != "" {
		r.Node.Warnings = append(r.Node.Warnings, fallback)
	}
	r.Node.Warnings = append(r.Node.Warnings, s.kernel.Problems()...)
	for _, problem := range s.checks.Problems() {
		r.Node.Warnings = append(r.Node.Warnings, problem+"; it is tried again each few seconds")
	}
	if n := s.watched.Node(); n != nil && s.missesPodCIDR(n) {
		r.Node.Warnings = append(r.Node.Warnings, noPodCIDR)
	}
	for _, missing := range s.tracker.Missing() {
		r.Node.Warnings = append(r.Node.Warnings, "Services are not programmed yet: "+missing+" have not been read; "+apiclient.GrantHint)
	}
}

// runPages serves kube-proxy's ports.
func (s *services) runPages(ctx context.Context, g *errgroup.Group) {
	p := s.config.Proxy
	page := func(at netip.AddrPort, h http.Handler) {
		if at.IsValid() && at.Port() != 0 {
			g.Go(func() error {
				return server.NewPage(server.PageConfig{
					Listen: at, Ports: s.ports, Handler: h, Remedy: "is kube-proxy running on this machine?", Hard: p.BindHardFail, Log: s.log,
				}).Run(ctx)
			})
		}
	}
	page(p.Healthz, s.health.Handler())
	page(p.Metrics, s.metricsPages())
}

// metricsPages are those of kube-proxy's metrics port. /healthz says that the process answers;
// whether it keeps up is on the other port.
func (s *services) metricsPages() http.Handler {
	m := http.NewServeMux()
	m.Handle("/proxyMode", proxier.ModeHandler(string(s.mode())))
	m.Handle("/metrics", s.page)
	m.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok")) })
	m.HandleFunc("/configz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_ = json.NewEncoder(w).Encode(map[string]any{config.KubeProxyGroup: s.config.KubeProxyConfiguration()})
	})
	if s.config.Proxy.Profiling {
		server.HandleProfiles(m)
	}
	return m
}
