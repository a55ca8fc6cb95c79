package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// RotatorConfig says how to renew which client certificate.
type RotatorConfig struct {
	// NodeName is the certificate's; CertDir is the folder of pairs.
	NodeName, CertDir string
	// Credentials use the certificate; the Rotator sets each new one.
	Credentials *Credentials
	// Renew requests a new certificate before the current one expires. Without it, the Rotator
	// only loads files that other programs replace.
	Renew bool
	// BootstrapKubeconfig, if the file exists, is used to request a new certificate when the
	// current one has expired, as on a machine that was paused.
	BootstrapKubeconfig string
	// UserAgent of the requests.
	UserAgent string
	// Now is the clock; Jitter gives numbers from 0 to 1.
	Now    func() time.Time
	Jitter func() float64
	Log    *slog.Logger
}

// Rotator renews the agent's client certificate before it expires.
type Rotator struct {
	c       RotatorConfig
	renewer *renewer
	node    *rest.Config // with the certificate itself
	// rejoining: the certificate has expired, and the bootstrap kubeconfig is used to request a
	// new one.
	rejoining bool
}

// NewRotator checks its configuration and touches nothing.
func NewRotator(c RotatorConfig) (*Rotator, error) {
	if c.NodeName == "" || c.CertDir == "" || c.Credentials == nil || c.Now == nil || c.Jitter == nil || c.Log == nil {
		return nil, errors.New("making a rotator: a field is missing")
	}
	r := &Rotator{c: c, node: c.Credentials.Config(Options{UserAgent: c.UserAgent, QPS: -1})}
	r.renewer = &renewer{
		what: "client", pairs: NewPairs(c.CertDir, clientPair), now: c.Now, jitter: c.Jitter, log: c.Log, every: 30 * time.Second,
		client:  r.client,
		want:    r.request,
		current: c.Credentials.Certificate,
		install: c.Credentials.SetCertificate,
		before:  r.reload,
		expired: !c.Renew,
	}
	return r, nil
}

func (r *Rotator) request() (request, bool) {
	want := clientRequest(r.c.NodeName)
	if !r.rejoining {
		want.forbidden = forbiddenToNodes
	}
	return want, true
}

func (r *Rotator) reload() {
	changed, err := r.c.Credentials.Reload(r.c.Now())
	switch {
	case err != nil:
		r.c.Log.Warn("Client certificate file cannot be used, keeping the certificate in use", "err", err)
	case changed:
		r.c.Log.Info("Client certificate file was replaced by another program, using the new certificate")
	}
}

// client uses the certificate itself while it is valid, else the bootstrap kubeconfig.
func (r *Rotator) client() (kubernetes.Interface, error) {
	expired := r.c.Credentials.CheckExpiry(r.c.Now())
	if expired == nil {
		r.rejoining = false
		return kubernetes.NewForConfig(r.node)
	}
	bootstrap, err := LoadCredentials(r.c.BootstrapKubeconfig)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, expired
	}
	if err != nil {
		return nil, errors.Join(expired, err)
	}
	// these credentials may not read a request that the node made as itself
	if !r.rejoining {
		if err := r.renewer.pairs.dropPendingKey(); err != nil {
			return nil, err
		}
		r.rejoining = true
	}
	return kubernetes.NewForConfig(bootstrap.Config(Options{UserAgent: r.c.UserAgent, QPS: -1}))
}

// clientPair and servingPair are kubelet's names for its pairs.
const (
	clientPair  = "kubelet-client"
	servingPair = "kubelet-server"
)

// Run renews until ctx ends. It returns at once if the kubeconfig has no certificate.
func (r *Rotator) Run(ctx context.Context) error {
	if r.renewer.current() == nil {
		<-ctx.Done()
		return nil
	}
	return r.renewer.run(ctx)
}

// Pending is the name of the request that waits for approval; empty: none.
func (r *Rotator) Pending() string { return r.renewer.name() }

// dropRefused removes the key of a denied request, so that the next request is a new one.
func dropRefused(p *Pairs, err error) error {
	if !errors.Is(err, errRefused) {
		return err
	}
	if dropErr := p.dropPendingKey(); dropErr != nil {
		return fmt.Errorf("%w (and %w)", err, dropErr)
	}
	return err
}
