package agent

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"github.com/nodeagent/nodeagent/pkg/bootstrap"
	"github.com/nodeagent/nodeagent/pkg/bootstrap/unit"
	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/node/footprint"
	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/runtime/logpump"
	"github.com/nodeagent/nodeagent/pkg/server"
	"github.com/nodeagent/nodeagent/pkg/sleep"
	"github.com/nodeagent/nodeagent/pkg/status/summary"
	"github.com/nodeagent/nodeagent/pkg/version"
)

func realClock() clock.WithTicker { return clock.RealClock{} }

// makeCertificates makes what keeps the client and the serving certificate fresh.
func (a *Agent) makeCertificates() error {
	c, now := a.config, a.options.Now
	var err error
	a.rotator, err = bootstrap.NewRotator(bootstrap.RotatorConfig{
		NodeName: c.Node.Name, CertDir: c.Identity.CertDir, Credentials: a.identity, Renew: c.Identity.RotateClient,
		BootstrapKubeconfig: c.Identity.BootstrapKubeconfig, UserAgent: version.UserAgent(), Now: now, Jitter: rand.Float64, Log: a.log,
	})
	if err != nil {
		return err
	}
	a.serving, err = bootstrap.NewServing(bootstrap.ServingConfig{
		NodeName: c.Node.Name, CertDir: c.Identity.CertDir, CertFile: c.Server.CertFile, KeyFile: c.Server.KeyFile,
		ByCSR: c.Identity.ServingBootstrap, Addresses: a.addresses.List, Credentials: a.identity, UserAgent: version.UserAgent(),
		Now: now, Jitter: rand.Float64, Log: a.log,
	})
	return err
}

// runPages runs everything that answers questions: the node API, the health page, the socket of
// `nodeagent status`.
func (a *Agent) runPages(run func(name string, part func(context.Context) error)) error {
	c := a.config
	run("status socket", func(ctx context.Context) error {
		return server.StatusSocket{Path: c.Paths.StatusSocket, Report: a.summary, Log: a.log}.Run(ctx)
	})
	if at := c.Server.Healthz; at.IsValid() && at.Port() != 0 {
		run("health page", server.NewHealth(server.HealthConfig{Listen: at, Ports: a.ports, Healthy: a.healthy, Log: a.log}).Run)
	}
	run("systemd notifier", unit.Notifier{Healthy: a.healthy, Log: a.log}.Run)
	if a.pods == nil || !c.Server.Enabled {
		return nil
	}
	s, err := a.makeServer()
	if err != nil {
		return err
	}
	run("serving certificate", a.serving.Run)
	run("node API", s.Run)
	return nil
}

func (a *Agent) makeServer() (*server.Server, error) {
	c, now := a.config, a.options.Now
	version, suites, err := server.TLSOptions(c.Server.MinVersion, c.Server.CipherSuites)
	if err != nil {
		return nil, err
	}
	ca, err := server.NewClientCA(cmp.Or(c.Auth.ClientCAFile, c.Identity.ClusterCA), c.Auth.ClientCAFile == "", now)
	if err != nil {
		return nil, err
	}
	auth := server.AuthConfig{ClientCA: ca.Pool, TokenTTL: c.Auth.WebhookTTL, Anonymous: c.Auth.Anonymous, Now: now}
	if c.Auth.Webhook {
		auth.Tokens = a.clients.Review.AuthenticationV1().TokenReviews()
	}
	var access server.Authorizer = server.AllowAll{}
	if !c.Auth.AlwaysAllow {
		access = server.NewAccess(server.AccessConfig{
			Node: c.Node.Name, Reviews: a.clients.Review.AuthorizationV1().SubjectAccessReviews(),
			AllowTTL: c.Auth.AllowTTL, DenyTTL: c.Auth.DenyTTL, Now: now,
		})
	}
	logDir := ""
	if c.Server.SystemLogs {
		logDir = "/var/log"
	}
	return server.New(server.Config{
		Listen: c.Server.Listen, Ports: a.ports, Pods: known{a.pods}, Streams: a.pods.runtime, Logs: logpump.Read,
		Auth: server.NewAuth(auth), Access: access, Certificate: a.serving.GetCertificate, ClientCA: ca.Pool,
		MinVersion: version, CipherSuites: suites, Metrics: server.MetricsHandler(a.registry), Healthy: a.healthy,
		Debugging: c.Server.Debugging, Profiling: c.Server.Profiling, LogDir: logDir, StreamIdle: c.Server.StreamIdle,
		Now: now, Log: a.log, Configz: func() any { return map[string]any{config.KubeletKey: c.KubeletConfiguration()} },
	})
}

// known are the pods that the node API tells of.
type known struct{ *pods }

// Pod implements server.Pods.
func (k known) Pod(namespace, name string) (*corev1.Pod, runtime.Pod, bool) {
	pod := k.loop.Named(namespace, name)
	if pod == nil {
		return nil, runtime.Pod{}, false
	}
	return pod, k.have(pod.UID), true
}

// Observed implements server.Pods.
func (k known) Observed(uid types.UID) runtime.Pod { return k.have(uid) }

// have is what runs of a pod.
func (p *pods) have(uid types.UID) runtime.Pod {
	found, err := p.runtime.Get(context.Background(), uid) //nolint:forbidigo // answered from memory
	if err != nil {
		p.log.Error("The runtime could not be asked about a pod", "uid", uid, "err", err)
	}
	return found
}

// Pods implements server.Pods.
func (k known) Pods() []*corev1.Pod {
	var pods []*corev1.Pod
	for _, v := range k.loop.Snapshot() {
		if v.Pod != nil && !v.Gone {
			pods = append(pods, v.WithStatus())
		}
	}
	return pods
}

// healthy is what /healthz and systemd's watchdog ask.
func (a *Agent) healthy() error {
	if a.pods == nil {
		return nil
	}
	return a.pods.loop.Healthy()
}

// announce tells systemd when the node does all that it can: see the order of truth in the
// package's doc.
func (a *Agent) announce(ctx context.Context) error {
	for !a.ready() {
		if sleep.For(ctx, 50*time.Millisecond) != nil {
			return nil
		}
	}
	a.log.Info("Ready", "took", a.options.Now().Sub(a.started).Round(time.Millisecond))
	if err := footprint.ReleaseStartup(); err != nil {
		a.log.Warn("Memory that only starting needed is kept", "err", err)
	}
	return unit.Notifier{Healthy: a.healthy, Log: a.log}.Ready()
}

func (a *Agent) ready() bool {
	if a.node.UID() == "" || a.lease.Renewed().IsZero() {
		return false
	}
	if a.pods != nil && !a.pods.loop.Synced() {
		return false
	}
	if a.services != nil {
		if ok, _ := a.services.health.Healthy(); !ok {
			return false
		}
	}
	return true
}

// summary is the agent as `nodeagent status` shows it.
func (a *Agent) summary() summary.Report {
	r := summary.Report{
		Version: version.Kubernetes(), At: a.options.Now(), Started: a.started, Errors: a.errors.Last(), Memory: footprint.Resident(),
		Node: summary.Node{Name: a.config.Node.Name, Server: "https://" + a.identity.Server(), Lease: a.lease.Renewed()},
	}
	r.Node.Expires = a.identity.Expires()
	if a.node.Deleted() {
		r.Node.Warnings = append(r.Node.Warnings, "the Node was deleted from the API server: it is registered again when the agent is restarted")
	}
	if n := a.node.Current(); n != nil {
		r.Node.Registered = !a.node.Deleted()
		for _, ad := range n.Status.Addresses {
			if ad.Type == corev1.NodeInternalIP {
				r.Node.Addresses = append(r.Node.Addresses, ad.Address)
			}
		}
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady {
				r.Node.Ready, r.Node.Message = c.Status == corev1.ConditionTrue, c.Message
			}
		}
		r.Node.Runtime = n.Status.NodeInfo.ContainerRuntimeVersion
	}
	if pending := a.serving.Pending(); pending != "" {
		r.Node.Warnings = append(r.Node.Warnings, fmt.Sprintf("serving certificate request %s waits for approval: kubectl certificate approve %s", pending, pending))
	}
	if a.rotator.Pending() != "" {
		r.Node.Warnings = append(r.Node.Warnings, "client certificate request "+a.rotator.Pending()+" waits for approval: kubectl certificate approve "+a.rotator.Pending())
	}
	for _, closed := range a.ports.Closed() {
		r.Node.Warnings = append(r.Node.Warnings, closed+"; it is tried again each few seconds")
	}
	if a.pods != nil {
		a.pods.describe(&r)
	}
	if a.services != nil {
		a.services.describe(&r)
	}
	return r
}

// describe adds the pods and what is done about them.
func (p *pods) describe(r *summary.Report) {
	if !p.cgroups.V2() {
		r.Node.Warnings = append(r.Node.Warnings, "cgroup v1 is on its way out: move this machine to cgroup v2")
	}
	for _, problem := range p.static.Problems() {
		r.Node.Warnings = append(r.Node.Warnings, fmt.Sprint(problem))
	}
	for _, v := range p.loop.Snapshot() {
		s := summary.Pod{
			Namespace: v.Namespace, Name: v.Name, UID: string(v.UID), Phase: string(v.Status.Phase), Reason: v.Refused,
			IP: v.Status.PodIP, Plan: v.Plan, UnderWay: v.Running, WakeAt: v.WakeAt, LastError: v.LastError,
		}
		for _, c := range v.Status.ContainerStatuses {
			s.Total++
			s.Restarts += int(c.RestartCount)
			if c.Ready {
				s.Ready++
			}
			if c.State.Waiting != nil && s.Reason == "" {
				s.Reason = c.State.Waiting.Reason
			}
		}
		r.Pods = append(r.Pods, s)
	}
}
