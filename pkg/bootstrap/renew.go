package bootstrap

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/nodeagent/nodeagent/pkg/sleep"
)

// renewAt is when to renew a certificate: after 70 to 90 % of its lifetime, as jitter goes from 0
// to 1, so that nodes that joined together do not renew together. The zero certificate is due at
// once.
func renewAt(notBefore, notAfter time.Time, jitter float64) time.Time {
	life := notAfter.Sub(notBefore)
	return notBefore.Add(time.Duration(float64(life) * (0.7 + 0.2*min(max(jitter, 0), 1))))
}

// renewer renews one certificate. It uses client-go's request and wait (util/certificate/csr), but
// not its manager, which leaves goroutines behind, reads the wall clock, and closes connections
// that are in use.
type renewer struct {
	what    string
	pairs   *Pairs
	client  func() (kubernetes.Interface, error)
	want    func() (request, bool) // false: not known yet
	current func() *tls.Certificate
	install func(*tls.Certificate)
	now     func() time.Time
	jitter  func() float64
	log     *slog.Logger
	// every is how often the renewer checks whether the certificate is due.
	every  time.Duration
	before func() // called before each check; may be nil
	// expired renews the certificate only once it has expired.
	expired bool
	pending atomic.Pointer[string]
}

// patience is how long the renewer waits for one request before it checks again what is needed.
const patience = 15 * time.Minute

func (r *renewer) run(ctx context.Context) error {
	share := r.jitter()
	var failures int
	for {
		if r.before != nil {
			r.before()
		}
		wait := r.every
		if due, why := r.due(share); why != "" {
			if err := r.renew(ctx, why); err != nil && ctx.Err() == nil {
				failures++
				wait = min(5*time.Second<<min(failures, 6), 5*time.Minute)
				// so that the nodes of a cluster do not retry together
				wait -= time.Duration(r.jitter() * float64(wait/2))
				r.log.Warn("Certificate cannot be renewed, trying again", "certificate", r.what, "reason", why, "retryIn", wait, "err", err)
			} else {
				failures, share = 0, r.jitter()
			}
		} else if until := due.Sub(r.now()); until < wait {
			wait = max(until, time.Second)
		}
		if sleep.For(ctx, wait) != nil {
			return nil //nolint:nilerr // the end was asked for
		}
	}
}

// due returns when to renew the certificate and, if that is now, why.
func (r *renewer) due(share float64) (at time.Time, why string) {
	leaf := leafOf(r.current())
	if leaf == nil {
		return r.now(), "there is none yet"
	}
	if r.expired {
		if !r.now().Before(leaf.NotAfter) {
			return leaf.NotAfter, "it expired on " + leaf.NotAfter.UTC().Format(time.RFC3339)
		}
		return leaf.NotAfter, ""
	}
	at = renewAt(leaf.NotBefore, leaf.NotAfter, share)
	if want, ok := r.want(); ok && !covers(leaf, want.template) {
		return at, "the node's name or addresses have changed"
	}
	if !r.now().Before(at) {
		return at, "it expires on " + leaf.NotAfter.UTC().Format(time.RFC3339)
	}
	return at, ""
}

func covers(leaf *x509.Certificate, t *x509.CertificateRequest) bool {
	if leaf.Subject.CommonName != t.Subject.CommonName {
		return false
	}
	for _, ip := range t.IPAddresses {
		if !slices.ContainsFunc(leaf.IPAddresses, ip.Equal) {
			return false
		}
	}
	for _, name := range t.DNSNames {
		if !slices.Contains(leaf.DNSNames, name) {
			return false
		}
	}
	return true
}

func (r *renewer) renew(ctx context.Context, why string) error {
	want, ok := r.want()
	if !ok {
		return nil
	}
	client, err := r.client()
	if err != nil {
		return err
	}
	key, keyPEM, err := r.pairs.pendingKey()
	if err != nil {
		return err
	}
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	defer r.pending.Store(nil)
	certPEM, err := want.sign(waiting, client, key, func(name string) { r.pending.Store(&name) })
	if err != nil {
		return dropRefused(r.pairs, err)
	}
	pair, err := r.pairs.Save(certPEM, keyPEM, r.now())
	if err != nil {
		return err
	}
	r.install(pair)
	r.log.Info("Certificate renewed", "certificate", r.what, "reason", why, "notAfter", leafOf(pair).NotAfter.UTC())
	return nil
}

// name is that of the request that waits for approval; "": none.
func (r *renewer) name() string {
	if p := r.pending.Load(); p != nil {
		return *p
	}
	return ""
}
