package agent

import (
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"k8s.io/client-go/rest"

	"github.com/nodeagent/nodeagent/pkg/apiclient"
	"github.com/nodeagent/nodeagent/pkg/bootstrap"
	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/node/facts"
	"github.com/nodeagent/nodeagent/pkg/server"
	"github.com/nodeagent/nodeagent/pkg/status/report"
	"github.com/nodeagent/nodeagent/pkg/version"
)

// shared is what several halves use. Nothing in it changes after New.
type shared struct {
	config    *config.Config
	clients   *apiclient.Clients
	informers *apiclient.Informers
	events    *report.Events
	addresses *facts.NodeIPs
	ports     *server.Ports
	registry  *prometheus.Registry // of the node API: kubelet's series
	proxied   *prometheus.Registry // of the proxy's metrics port: kube-proxy's series
	log       *slog.Logger
	now       func() time.Time
}

func newShared(o Options) (s shared, err error) {
	c := o.Config
	s = shared{
		config: c, log: o.Log, now: o.Now, ports: new(server.Ports), registry: prometheus.NewRegistry(), proxied: prometheus.NewRegistry(),
		addresses: &facts.NodeIPs{Given: c.Node.IPs, MaxAge: c.Node.StatusUpdateFrequency, Now: o.Now, Log: o.Log},
	}
	requests := apiclient.NewRequests()
	s.registerBoth(requests.Collector(), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	o.Identity.Observe(func(q bootstrap.Request) { requests.Count(q.Code, q.Method, q.Host) })
	s.clients, err = apiclient.NewClients(apiclient.ClientsConfig{
		Connect: func(l apiclient.Limits) *rest.Config {
			return o.Identity.Config(bootstrap.Options{
				UserAgent: version.UserAgent(), ContentType: c.API.ContentType, QPS: l.QPS, Burst: l.Burst, Timeout: l.Timeout,
			})
		},
		Main: apiclient.Limits{QPS: c.API.QPS, Burst: c.API.Burst}, Events: apiclient.Limits{QPS: c.API.EventQPS, Burst: c.API.EventBurst},
		LeaseDuration: c.Node.LeaseDuration,
	})
	if err != nil {
		return s, err
	}
	s.events = report.NewEvents(s.clients.Events, c.Node.Name, o.Log)
	s.informers, err = apiclient.NewInformers(apiclient.InformersConfig{
		Client: s.clients.Main, NodeName: c.Node.Name, Resync: c.Proxy.ResyncPeriod, Slices: c.Proxy.Mode != config.ProxyOff, Log: o.Log,
	})
	return s, err
}

// registerBoth has the ports of both halves serve what kubelet and kube-proxy each have of
// themselves: the process, and its requests to the API server. Every other series is on one port
// only, or whoever collects both would have it twice.
func (s shared) registerBoth(all ...prometheus.Collector) {
	s.registry.MustRegister(all...)
	s.proxied.MustRegister(all...)
}

func (s shared) parts() []part {
	return []part{
		{"event recorder", s.events.Run, nil},
		{"informers", s.informers.Run, nil},
	}
}

// certificates keep the client and the serving certificate fresh.
type certificates struct {
	client  *bootstrap.Rotator
	serving *bootstrap.Serving
}

func newCertificates(s shared, identity *bootstrap.Credentials) (*certificates, error) {
	c := s.config
	client, err := bootstrap.NewRotator(bootstrap.RotatorConfig{
		NodeName: c.Node.Name, CertDir: c.Identity.CertDir, Credentials: identity, Renew: c.Identity.RotateClient,
		BootstrapKubeconfig: c.Identity.BootstrapKubeconfig, UserAgent: version.UserAgent(), Now: s.now, Jitter: rand.Float64, Log: s.log,
	})
	if err != nil {
		return nil, err
	}
	serving, err := bootstrap.NewServing(bootstrap.ServingConfig{
		NodeName: c.Node.Name, CertDir: c.Identity.CertDir, CertFile: c.Server.CertFile, KeyFile: c.Server.KeyFile,
		ByCSR: c.Identity.ServingBootstrap, Addresses: s.addresses.List, Credentials: identity, UserAgent: version.UserAgent(),
		Now: s.now, Jitter: rand.Float64, Log: s.log,
	})
	return &certificates{client, serving}, err
}

func (c *certificates) parts() []part {
	return []part{{"client certificate", c.client.Run, nil}}
}
