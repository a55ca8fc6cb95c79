package bootstrap

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/nodeagent/nodeagent/pkg/sleep"
)

// ServingConfig says which certificate the node's API presents.
type ServingConfig struct {
	NodeName, CertDir string
	// CertFile and KeyFile are the user's own. If they are given, no certificate is made, and they
	// are read again once a minute.
	CertFile, KeyFile string
	// ByCSR requests the certificate from the signer kubernetes.io/kubelet-serving. Until it is
	// approved, the self-signed one is used.
	ByCSR bool
	// Addresses returns the node's addresses; it is called often.
	Addresses func() []netip.Addr
	// Credentials and UserAgent are for the request; required with ByCSR.
	Credentials *Credentials
	UserAgent   string
	Now         func() time.Time
	Jitter      func() float64
	Log         *slog.Logger
}

// Serving provides the certificate of the node's API: the user's, or one signed by the cluster, or
// a self-signed one.
type Serving struct {
	c       ServingConfig
	pairs   *Pairs
	renewer *renewer
	signed  atomic.Pointer[tls.Certificate] // the user's or the cluster's

	mu         sync.Mutex
	selfSigned *tls.Certificate
}

// NewServing checks its configuration and touches nothing.
func NewServing(c ServingConfig) (*Serving, error) {
	if c.NodeName == "" || c.CertDir == "" || c.Addresses == nil || c.Now == nil || c.Jitter == nil || c.Log == nil || c.ByCSR && c.Credentials == nil {
		return nil, errors.New("making a serving certificate: a field is missing")
	}
	s := &Serving{c: c, pairs: NewPairs(c.CertDir, servingPair)}
	if !c.ByCSR || c.CertFile != "" {
		return s, nil
	}
	config := c.Credentials.Config(Options{UserAgent: c.UserAgent, QPS: -1})
	s.renewer = &renewer{
		what: "serving", pairs: s.pairs, now: c.Now, jitter: c.Jitter, log: c.Log, every: time.Minute,
		client:  func() (kubernetes.Interface, error) { return kubernetes.NewForConfig(config) },
		want:    s.request,
		current: s.signed.Load,
		install: s.signed.Store,
	}
	return s, nil
}

// request is what kubernetes.io/kubelet-serving signs: at least one name or address of the node.
func (s *Serving) request() (request, bool) {
	t := &x509.CertificateRequest{Subject: nodeSubject(s.c.NodeName), DNSNames: []string{s.c.NodeName}, IPAddresses: netIPs(s.c.Addresses())}
	return request{
		template: t, signer: certificatesv1.KubeletServingSignerName, forbidden: forbiddenToNodes,
		usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth},
	}, len(t.IPAddresses) > 0
}

func netIPs(addresses []netip.Addr) []net.IP {
	var ips []net.IP
	for _, a := range addresses {
		ips = append(ips, a.AsSlice())
	}
	return ips
}

// Run renews the certificate until ctx ends.
func (s *Serving) Run(ctx context.Context) error {
	if s.renewer != nil {
		pair, err := s.pairs.Current()
		switch {
		case err == nil:
			s.signed.Store(pair)
		case !errors.Is(err, fs.ErrNotExist):
			s.c.Log.Warn("Serving certificate cannot be read, using an older one if there is a valid one", "err", err)
			want, _ := s.request()
			s.signed.Store(s.pairs.Best(func(leaf *x509.Certificate) bool {
				return covers(leaf, want.template) && s.c.Now().Before(leaf.NotAfter)
			}))
		}
		return s.renewer.run(ctx)
	}
	for {
		if s.c.CertFile != "" {
			if pair, err := tls.LoadX509KeyPair(s.c.CertFile, s.c.KeyFile); err != nil {
				s.c.Log.Warn("Serving certificate cannot be read", "file", s.c.CertFile, "err", err)
			} else {
				s.signed.Store(&pair)
			}
		}
		if sleep.For(ctx, time.Minute) != nil {
			return nil //nolint:nilerr // the end was asked for
		}
	}
}

// Pending is the name of the request that waits for approval; empty: none.
func (s *Serving) Pending() string {
	if s.renewer == nil {
		return ""
	}
	return s.renewer.name()
}

// GetCertificate is for tls.Config. It makes the self-signed certificate at the first need.
func (s *Serving) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if pair := s.signed.Load(); pair != nil {
		return pair, nil
	}
	if s.c.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(s.c.CertFile, s.c.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("reading serving certificate %q: %w", s.c.CertFile, err)
		}
		s.signed.CompareAndSwap(nil, &pair)
		return &pair, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ensureSelfSigned()
}

// ensureSelfSigned reads kubelet.crt and kubelet.key, or makes a pair that is valid for a year.
// The caller holds mu.
func (s *Serving) ensureSelfSigned() (*tls.Certificate, error) {
	want := &x509.CertificateRequest{Subject: nodeSubject(s.c.NodeName), DNSNames: []string{s.c.NodeName}, IPAddresses: netIPs(s.c.Addresses())}
	good := func(pair *tls.Certificate) bool {
		leaf := leafOf(pair)
		now := s.c.Now() // the clock may have been set back since
		return leaf != nil && covers(leaf, want) && !now.Before(leaf.NotBefore) && now.Before(leaf.NotAfter.Add(-24*time.Hour))
	}
	if good(s.selfSigned) {
		return s.selfSigned, nil
	}
	certFile, keyFile := filepath.Join(s.c.CertDir, "kubelet.crt"), filepath.Join(s.c.CertDir, "kubelet.key")
	if pair, err := tls.LoadX509KeyPair(certFile, keyFile); err == nil && good(&pair) {
		s.selfSigned = &pair
		return s.selfSigned, nil
	}
	certPEM, keyPEM, err := selfSign(want, s.c.Now())
	if err != nil {
		return nil, err
	}
	// key first: a power cut in between leaves a pair that does not match, and the next start
	// makes another
	if err := writeFile(keyFile, keyPEM, 0o600); err != nil {
		return nil, err
	}
	if err := writeFile(certFile, certPEM, 0o644); err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("pairing the serving certificate with its key: %w", err)
	}
	s.selfSigned = &pair
	return s.selfSigned, nil
}

func selfSign(want *x509.CertificateRequest, now time.Time) (certPEM, keyPEM []byte, err error) {
	key, keyPEM, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, nil, fmt.Errorf("making a serial number: %w", err)
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: want.Subject, DNSNames: want.DNSNames, IPAddresses: want.IPAddresses,
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(365 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return nil, nil, fmt.Errorf("signing the serving certificate: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), keyPEM, nil
}
