package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"k8s.io/client-go/kubernetes"
)

// RotatorConfig says whose client certificate is renewed, and how.
type RotatorConfig struct {
	// NodeName is the certificate's; CertDir where pairs are kept.
	NodeName, CertDir string
	// Credentials use the certificate and are given each new one.
	Credentials *Credentials
	// UserAgent of the requests.
	UserAgent string
	// Now is the clock; Jitter gives numbers from 0 to 1.
	Now    func() time.Time
	Jitter func() float64
	Log    *slog.Logger
}

// Rotator renews the agent's client certificate through its whole life.
type Rotator struct{ renewer *renewer }

// NewRotator checks its configuration and touches nothing.
func NewRotator(c RotatorConfig) (*Rotator, error) {
	if c.NodeName == "" || c.CertDir == "" || c.Credentials == nil || c.Now == nil || c.Jitter == nil || c.Log == nil {
		return nil, errors.New("making a rotator: a field is missing")
	}
	config := c.Credentials.Config(Options{UserAgent: c.UserAgent, QPS: -1})
	r := &renewer{
		what: "client", pairs: NewPairs(c.CertDir, clientPair), now: c.Now, jitter: c.Jitter, log: c.Log, look: 30 * time.Second,
		client:  func() (kubernetes.Interface, error) { return kubernetes.NewForConfig(config) },
		want:    func() (request, bool) { return clientRequest(c.NodeName), true },
		current: c.Credentials.Certificate,
		install: c.Credentials.SetCertificate,
	}
	r.before = func() {
		changed, err := c.Credentials.Reload()
		switch {
		case err != nil:
			c.Log.Warn("certificate file not read", "err", err)
		case changed:
			c.Log.Info("certificate file was replaced by another program")
		}
	}
	return &Rotator{r}, nil
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
