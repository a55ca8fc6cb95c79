// Package agent is WIRING: it makes every part of the daemon from one configuration and runs them
// in one group. It alone names concrete parts and decides nothing. It is a library: an embedder, a
// fork or a test passes parts of its own as values in Options.
//
//	shared.go      what several halves use: clients, informers, events, metrics registries
//	pods.go        the pods half           services.go   the services half
//	node.go        the node half, the Node object and its lease
//	api.go         what answers questions: the node API, health, `nodeagent status`
//
// The parts are a list (Agent.parts); its order has no meaning. A part that needs another one waits
// for it. The agent is ready, and tells systemd so, once every part that can say so is ready:
// Node registered, lease renewed, every pod source read, Services of the node's family programmed.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/bootstrap"
	"github.com/nodeagent/nodeagent/pkg/bootstrap/unit"
	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/node/footprint"
	"github.com/nodeagent/nodeagent/pkg/podsync"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume"
	"github.com/nodeagent/nodeagent/pkg/proxier"
	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/sleep"
	"github.com/nodeagent/nodeagent/pkg/status/errorlog"
	"github.com/nodeagent/nodeagent/pkg/version"
)

// Options are what an agent is made from. Config, Identity and Log are required. Config's folders
// must exist: bootstrap.MakeFolders makes them.
type Options struct {
	Config   *config.Config
	Identity *bootstrap.Credentials // Identity finds or gets them
	Log      *slog.Logger
	Now      func() time.Time // default time.Now
	// Runtime runs the containers in place of containerd. The agent asserts the optional powers of
	// package runtime. A runtime brings its own pod network.
	Runtime runtime.Runtime
	// Backend makes what programs the Services of one address family, in place of that of the proxy
	// mode. Once it has synced, the rules of the other modes are removed, kube-proxy's too; those
	// of mode iptables stay beside a backend that embeds an iptables.Engine.
	Backend func(ctx context.Context, f corev1.IPFamily) (proxier.Backend, error)
	// Volumes and Sources come in addition to the agent's own.
	Volumes []volume.Plugin
	Sources []podsync.Source
}

// part is one thing that runs as long as the agent does.
type part struct {
	name  string
	run   func(ctx context.Context) error
	ready func() bool // nil: nothing waits for it
}

// Agent is one node's agent.
type Agent struct {
	parts    []part
	notifier unit.Notifier
	log      *slog.Logger
	now      func() time.Time
	started  time.Time
}

// Identity returns the node's identity: the kubeconfig's, or, when there is none yet or its
// certificate has expired, a new one by the bootstrap kubeconfig. It waits until ctx ends.
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

// New makes every part. It contacts nobody and changes nothing on the host.
func New(o Options) (*Agent, error) {
	if o.Config == nil || o.Identity == nil || o.Log == nil {
		return nil, errors.New("making the agent: Config, Identity and Log are required")
	}
	if o.Now == nil {
		o.Now = time.Now //nolint:forbidigo // the one place where the clock comes in
	}
	errs := errorlog.New(o.Log.Handler())
	o.Log = slog.New(errs)
	s, err := newShared(o)
	if err != nil {
		return nil, err
	}
	certs, err := newCertificates(s, o.Identity)
	if err != nil {
		return nil, err
	}
	machinery, err := newMachinery(s, o.Runtime) // nil: no pods half
	if err != nil {
		return nil, err
	}
	object, err := newNodeObject(s, machinery)
	if err != nil {
		return nil, err
	}
	services, err := newServicesHalf(s, o.Backend) // nil: no services half
	if err != nil {
		return nil, err
	}
	pods, err := newPodsHalf(s, o, podsNeeds{machinery, object.reporter, endpoints(s, services)})
	if err != nil {
		return nil, err
	}
	loop, err := newNodeLoop(s, object.reporter, pods)
	if err != nil {
		return nil, err
	}
	status := &statusReport{shared: s, identity: o.Identity, certs: certs, node: object, pods: pods, services: services, errors: errs, started: o.Now()}
	api, err := newAPI(s, certs, pods, status)
	if err != nil {
		return nil, err
	}
	return &Agent{
		parts:    slices.Concat(s.parts(), certs.parts(), object.parts(), machinery.parts(), pods.parts(), loop, servicesParts(s, services), api),
		notifier: unit.Notifier{Healthy: pods.healthy, Log: o.Log}, log: o.Log, now: o.Now, started: o.Now(),
	}, nil
}

// Run runs the agent until ctx ends. Pods and rules stay as they are then.
func (a *Agent) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, p := range append(slices.Clone(a.parts), part{"systemd watchdog", a.notifier.Run, nil}, part{"readiness", a.announce, nil}) {
		g.Go(func() error {
			if err := p.run(ctx); err != nil {
				return fmt.Errorf("running the %s: %w", p.name, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// announce tells systemd when every part is ready.
func (a *Agent) announce(ctx context.Context) error {
	for slices.ContainsFunc(a.parts, func(p part) bool { return p.ready != nil && !p.ready() }) {
		if sleep.For(ctx, 50*time.Millisecond) != nil {
			return nil //nolint:nilerr // the agent ends before it was ready
		}
	}
	a.log.Info("Ready", "took", a.now().Sub(a.started).Round(time.Millisecond))
	if err := footprint.ReleaseStartup(); err != nil {
		a.log.Warn("Memory that only the start needed was not released", "err", err)
	}
	return a.notifier.Ready()
}

// after has a part run once another one is ready.
func after(ready <-chan struct{}, run func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		select {
		case <-ctx.Done():
			return nil
		case <-ready:
			return run(ctx)
		}
	}
}
