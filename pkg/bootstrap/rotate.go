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

// RotatorConfig says whose client certificate is renewed, and how.
type RotatorConfig struct {
	// NodeName is the certificate's; CertDir where pairs are kept.
	NodeName, CertDir string
	// Credentials use the certificate and are given each new one.
	Credentials *Credentials
	// Renew asks for a new certificate while the present one is good; else only files that others
	// replace are followed.
	Renew bool
	// BootstrapKubeconfig, if the file is there, gets a new certificate when the present one has
	// expired all the same, as on a machine that was paused.
	BootstrapKubeconfig string
	// UserAgent of the requests.
	UserAgent string
	// Now is the clock; Jitter gives numbers from 0 to 1.
	Now    func() time.Time
	Jitter func() float64
	Log    *slog.Logger
}

// Rotator keeps the agent's client certificate good through its whole life.
type Rotator struct {
	c       RotatorConfig
	renewer *renewer
	node    *rest.Config // with the certificate itself
	// rejoining says that the certificate has expired and that a new one is asked for by the
	// bootstrap kubeconfig.
	rejoining bool
}

// NewRotator checks its configuration and touches nothing.
func NewRotator(c RotatorConfig) (*Rotator, error) {
	if c.NodeName == "" || c.CertDir == "" || c.Credentials == nil || c.Now == nil || c.Jitter == nil || c.Log == nil {
		return nil, errors.New("making a rotator: a field is missing")
	}
	r := &Rotator{c: c, node: c.Credentials.Config(Options{UserAgent: c.UserAgent, QPS: -1})}
	r.renewer = &renewer{
		what: "client", pairs: NewPairs(c.CertDir, clientPair), now: c.Now, jitter: c.Jitter, log: c.Log, look: 30 * time.Second,
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
		r.c.Log.Warn("certificate file not used", "err", err)
	case changed:
		r.c.Log.Info("certificate file was replaced by another program")
	}
}

// client asks with the certificate itself while it is good, else with the bootstrap kubeconfig.
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
	// a request that was made as the node is not for these credentials to wait for
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

// Run renews until ctx ends. It returns at once when the kubeconfig has no certificate.
func (r *Rotator) Run(ctx context.Context) error {
	if r.renewer.current() == nil {
		<-ctx.Done()
		return nil
	}
	return r.renewer.run(ctx)
}

// Pending is the name of the request that waits for approval; empty: none does.
func (r *Rotator) Pending() string { return r.renewer.name() }

// dropRefused forgets the key of a request that was denied, so that the next request is a new one.
func dropRefused(p *Pairs, err error) error {
	if !errors.Is(err, errRefused) {
		return err
	}
	if dropErr := p.dropPendingKey(); dropErr != nil {
		return fmt.Errorf("%w (and %w)", err, dropErr)
	}
	return err
}
