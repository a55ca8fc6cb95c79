// Package agent is WIRING: it makes every part of the daemon from one configuration and runs them
// in one group. It alone names concrete parts; it decides nothing. It is a library:
// an embedder, a fork or a test passes parts of its own as values in Options.
//
//	wiring           who is given what            agent.go, pods.go, services.go, api.go
//	order of truth   Node registered → first lease → sources synced → first service rules → READY=1
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/nodeagent/nodeagent/pkg/apiclient"
	"github.com/nodeagent/nodeagent/pkg/bootstrap"
	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/node/facts"
	"github.com/nodeagent/nodeagent/pkg/podsync"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume"
	"github.com/nodeagent/nodeagent/pkg/proxier"
	"github.com/nodeagent/nodeagent/pkg/proxier/modes"
	"github.com/nodeagent/nodeagent/pkg/server"
	"github.com/nodeagent/nodeagent/pkg/status/errorlog"
	"github.com/nodeagent/nodeagent/pkg/status/report"
	"github.com/nodeagent/nodeagent/pkg/version"
)

// Options are what an agent is made from. Config, Identity and Log are required; MakeFolders has
// made Config's folders.
type Options struct {
	Config   *config.Config
	Identity *bootstrap.Credentials // of Identity
	Log      *slog.Logger
	Now      func() time.Time // default time.Now
	// Backend replaces the proxy's: it makes what programs one address family.
	Backend func(ctx context.Context, f corev1.IPFamily) (proxier.Backend, error)
	// Volumes and Sources are added to the agent's own.
	Volumes []volume.Plugin
	Sources []podsync.Source
}

// Agent is one node's agent.
type Agent struct {
	options  Options
	config   *config.Config
	log      *slog.Logger
	errors   *errorlog.Handler
	started  time.Time
	registry *prometheus.Registry // of the node API: kubelet's series
	proxied  *prometheus.Registry // of the proxy's metrics port: kube-proxy's
	ports    *server.Ports
	// addresses are the node's own
	addresses *facts.NodeIPs

	identity *bootstrap.Credentials
	rotator  *bootstrap.Rotator
	serving  *bootstrap.Serving
	clients  *apiclient.Clients
	watched  *apiclient.Informers
	events   *report.Events
	node     *report.Node
	lease    *report.Lease
	pods     *pods     // nil: off
	services *services // nil: off
}

// Identity is the node's identity: the kubeconfig's, or, when there is none yet or its certificate
// has expired, a new one by the bootstrap kubeconfig, waited for until ctx ends.
func Identity(ctx context.Context, c *config.Config, log *slog.Logger) (*bootstrap.Credentials, error) {
	return bootstrap.Ensure(ctx, bootstrap.EnsureConfig{
		Kubeconfig: c.Identity.Kubeconfig, BootstrapKubeconfig: c.Identity.BootstrapKubeconfig, CA: c.Identity.ClusterCA,
		CertDir: c.Identity.CertDir, NodeName: c.Node.Name, UserAgent: version.UserAgent(), Minor: version.Minor,
		Now: time.Now, //nolint:forbidigo // before the agent there is no clock to inject
		Report: func(e bootstrap.Event) {
			log.Info("Getting an identity", "step", e.Phase.String(), "state", string(e.State), "detail", e.Detail)
		},
	})
}

// New makes every part. Nothing is contacted and nothing on the host is changed before Run.
func New(o Options) (*Agent, error) {
	if o.Config == nil || o.Identity == nil || o.Log == nil {
		return nil, errors.New("making the agent: Config, Identity and Log are required")
	}
	if o.Now == nil {
		o.Now = time.Now //nolint:forbidigo // the one place where the clock comes in
	}
	errs := errorlog.New(o.Log.Handler())
	o.Log = slog.New(errs)
	a := &Agent{options: o, config: o.Config, log: o.Log, errors: errs, started: o.Now(), registry: prometheus.NewRegistry(), proxied: prometheus.NewRegistry(), ports: new(server.Ports)}
	a.addresses = &facts.NodeIPs{Given: o.Config.Node.IPs, MaxAge: o.Config.Node.StatusUpdateFrequency, Now: o.Now, Log: o.Log}
	registerBoth(a.registry, a.proxied, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, step := range []func() error{a.makeIdentity, a.makeCertificates, a.makeNode, a.makeServices, a.makePods} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// makeIdentity makes the clients, and what they watch.
func (a *Agent) makeIdentity() error {
	c := a.config
	a.identity = a.options.Identity
	var err error
	requests := apiclient.NewRequests()
	registerBoth(a.registry, a.proxied, requests.Collector())
	a.identity.Observe(func(q bootstrap.Request) { requests.Count(q.Code, q.Method, q.Host) })
	a.clients, err = apiclient.NewClients(apiclient.ClientsConfig{
		Connect: func(l apiclient.Limits) *rest.Config {
			return a.identity.Config(bootstrap.Options{
				UserAgent: version.UserAgent(), ContentType: c.API.ContentType, QPS: l.QPS, Burst: l.Burst, Timeout: l.Timeout,
			})
		},
		Main: apiclient.Limits{QPS: c.API.QPS, Burst: c.API.Burst}, Events: apiclient.Limits{QPS: c.API.EventQPS, Burst: c.API.EventBurst},
		LeaseDuration: c.Node.LeaseDuration,
	})
	if err != nil {
		return err
	}
	a.events = report.NewEvents(a.clients.Events, c.Node.Name, a.log)
	a.watched, err = apiclient.NewInformers(apiclient.InformersConfig{
		Client: a.clients.Main, NodeName: c.Node.Name, Resync: c.Proxy.ResyncPeriod, Slices: c.Proxy.Mode != config.ProxyOff, Log: a.log,
	})
	return err
}

// makeNode makes the lease; the reporter of the node follows once the pods half can be asked for
// its facts.
func (a *Agent) makeNode() error {
	var err error
	a.lease, err = report.NewLease(report.LeaseConfig{
		Client: a.clients.Lease, NodeName: a.config.Node.Name, Duration: a.config.Node.LeaseDuration, Clock: realClock(),
		NodeUID: func() types.UID { return a.node.UID() },
	})
	return err
}

// Run runs the agent until ctx ends. Pods and rules stay as they are then.
func (a *Agent) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	run := func(name string, part func(context.Context) error) {
		g.Go(func() error {
			if err := part(ctx); err != nil {
				return fmt.Errorf("running the %s: %w", name, err)
			}
			return nil
		})
	}
	run("event recorder", a.events.Run)
	run("node reporter", a.node.Run)
	run("node lease", a.runLease)
	run("informers", a.watched.Run)
	run("certificate rotation", a.rotator.Run)
	if a.pods != nil {
		run("pods", a.pods.Run)
	}
	if a.services != nil {
		run("services", a.services.Run)
	} else if a.config.Network.UtilChains {
		run("iptables hint", func(ctx context.Context) error { modes.WriteHint(ctx, a.log); return nil })
	}
	if err := a.runPages(run); err != nil {
		run("pages", func(context.Context) error { return err })
	}
	run("readiness", a.announce)
	return g.Wait()
}

// runLease renews the lease from the moment that the node exists: its owner is the Node.
func (a *Agent) runLease(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-a.node.Registered():
	}
	return a.lease.Run(ctx)
}

// makeServices makes the services half, unless it is off.
func (a *Agent) makeServices() error {
	if a.config.Proxy.Mode == config.ProxyOff {
		return nil
	}
	var err error
	a.services, err = newServices(servicesConfig{
		Config: a.config, Watched: a.watched, Addresses: a.addresses.List, Backend: a.options.Backend, Registry: a.proxied, Events: a.events,
		Ports: a.ports, Log: a.log, Now: a.options.Now,
	})
	return err
}
