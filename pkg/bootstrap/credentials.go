package bootstrap

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Credentials are what a kubeconfig says, with a certificate that can be exchanged while connections are in use.
//
// When the certificate changes, new requests go over new connections with it, and requests under way, watches above all,
// end by themselves on the old ones: nothing is dropped. client-go would close every connection instead.
type Credentials struct {
	base     rest.Config // host, bearer token, impersonation; no TLS
	tls      *tls.Config // roots, server name
	proxy    func(*http.Request) (*url.URL, error)
	certFile string
	keyFile  string
	servers  *servers
	observe  func(Request)
	cert     atomic.Pointer[tls.Certificate]

	mu         sync.Mutex
	transports []*swapTransport
}

// LoadCredentials reads a kubeconfig. A certificate given by file is read from there again by Reload. Plugins that make
// credentials (exec, auth-provider) are refused: a node has an identity of its own.
func LoadCredentials(kubeconfig string) (*Credentials, error) {
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(&clientcmd.ClientConfigLoadingRules{ExplicitPath: kubeconfig}, &clientcmd.ConfigOverrides{})
	base, err := loader.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("reading kubeconfig %q: %w", kubeconfig, err)
	}
	raw, err := loader.RawConfig() // of the same reading
	if err != nil {
		return nil, fmt.Errorf("reading kubeconfig %q: %w", kubeconfig, err)
	}
	if base.ExecProvider != nil || base.AuthProvider != nil {
		return nil, fmt.Errorf("reading kubeconfig %q: credentials by plugin are not for nodes; use a certificate or a token", kubeconfig)
	}
	c := &Credentials{proxy: base.Proxy, certFile: base.CertFile, keyFile: base.KeyFile, servers: &servers{list: currentContext(&raw).servers}}
	if len(c.servers.list) == 0 {
		return nil, fmt.Errorf("reading kubeconfig %q: its current context names no API server and user", kubeconfig)
	}
	if c.proxy == nil {
		c.proxy = http.ProxyFromEnvironment
	}
	// TLSConfigFor reads the files; the client certificate is taken out of it and kept where it can change
	if c.tls, err = rest.TLSConfigFor(base); err != nil {
		return nil, fmt.Errorf("reading kubeconfig %q: %w", kubeconfig, err)
	}
	if c.tls == nil {
		c.tls = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if base.CertFile != "" || len(base.CertData) > 0 {
		pair, err := certOf(base)
		if err != nil {
			return nil, fmt.Errorf("reading the client certificate of kubeconfig %q: %w", kubeconfig, err)
		}
		c.cert.Store(pair)
	}
	c.tls.Certificates = nil
	c.tls.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if pair := c.cert.Load(); pair != nil {
			return pair, nil
		}
		return &tls.Certificate{}, nil // none, as crypto/tls wants it said
	}
	base.TLSClientConfig = rest.TLSClientConfig{}
	base.Proxy = nil
	c.base = *base
	return c, nil
}

func certOf(base *rest.Config) (*tls.Certificate, error) {
	if len(base.CertData) > 0 {
		key := base.KeyData
		pair, err := tls.X509KeyPair(base.CertData, key)
		return &pair, err
	}
	pair, err := tls.LoadX509KeyPair(base.CertFile, base.KeyFile)
	return &pair, err
}

// Options are what one client of the API server needs of its own.
type Options struct {
	// UserAgent; QPS and Burst, QPS below 0: no limit.
	UserAgent string
	QPS       float32
	Burst     int
	// ContentType; empty: JSON. Timeout of a whole request; 0: none, as watches need it.
	ContentType string
	Timeout     time.Duration
}

// Config returns a configuration with connections of its own: ask for one each for what must not wait for the other,
// such as the lease. Connections are HTTP/2 and probed: a dead one is noticed in 15 s.
func (c *Credentials) Config(o Options) *rest.Config {
	t := &swapTransport{make: c.transport}
	t.swap()
	c.mu.Lock()
	c.transports = append(c.transports, t)
	c.mu.Unlock()
	r := rest.CopyConfig(&c.base)
	r.Transport = t
	if len(c.servers.list) > 1 {
		r.Transport = &failover{c.servers, t}
	}
	if c.observe != nil {
		r.Transport = &observed{c.observe, r.Transport}
	}
	r.UserAgent, r.QPS, r.Burst, r.Timeout = o.UserAgent, o.QPS, o.Burst, o.Timeout
	if o.ContentType != "" {
		r.ContentType = o.ContentType
		r.AcceptContentTypes = o.ContentType + ",application/json"
	}
	return r
}

// Observe has f told of every request of the clients made from now on.
func (c *Credentials) Observe(f func(Request)) { c.observe = f }

func (c *Credentials) transport() *http.Transport {
	patience := 10 * time.Second
	if len(c.servers.list) > 1 {
		patience = 3 * time.Second // the heartbeat must have time for another address
	}
	return &http.Transport{
		TLSClientConfig: c.tls.Clone(), Proxy: c.proxy, ForceAttemptHTTP2: true,
		DialContext:         (&net.Dialer{Timeout: patience, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout: patience, IdleConnTimeout: 90 * time.Second, MaxIdleConnsPerHost: 25,
		HTTP2: &http.HTTP2Config{SendPingTimeout: 10 * time.Second, PingTimeout: 5 * time.Second, WriteByteTimeout: 15 * time.Second},
	}
}

// Certificate is the one in use; nil when the kubeconfig has a token instead.
func (c *Credentials) Certificate() *tls.Certificate { return c.cert.Load() }

// Server is the API server in use, host:port; with others in the kubeconfig it changes when this one fails.
func (c *Credentials) Server() string { return c.servers.current() }

// Expires is when the certificate in use is out of date; the zero time without one.
func (c *Credentials) Expires() time.Time {
	if leaf := leafOf(c.cert.Load()); leaf != nil {
		return leaf.NotAfter
	}
	return time.Time{}
}

// SetCertificate makes new connections use another certificate.
func (c *Credentials) SetCertificate(pair *tls.Certificate) {
	c.cert.Store(pair)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.transports {
		t.swap()
	}
}

// Reload takes over a certificate file that another program has replaced, and reports whether it had changed.
func (c *Credentials) Reload() (bool, error) {
	if c.certFile == "" {
		return false, nil
	}
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return false, fmt.Errorf("reading the client certificate %q: %w", c.certFile, err)
	}
	if old := c.cert.Load(); old != nil && sameLeaf(old, &pair) {
		return false, nil
	}
	c.SetCertificate(&pair)
	return true, nil
}

func sameLeaf(a, b *tls.Certificate) bool {
	return len(a.Certificate) > 0 && len(b.Certificate) > 0 && string(a.Certificate[0]) == string(b.Certificate[0])
}

// ErrExpired says that the client certificate can no longer be used.
var ErrExpired = errors.New("the client certificate has expired")

// CheckExpiry returns ErrExpired, wrapped with dates and remedy, if the certificate in use is out of date.
func (c *Credentials) CheckExpiry(now time.Time) error {
	leaf := leafOf(c.cert.Load())
	if leaf == nil || now.Before(leaf.NotAfter) {
		return nil
	}
	return &Error{
		Code: CodeCertificate, Err: fmt.Errorf("checking the client certificate: %w on %s, it is now %s", ErrExpired,
			leaf.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339)),
		Next: "nodeagent join SERVER --token … --rejoin   (running pods are left running)",
	}
}

func leafOf(pair *tls.Certificate) *x509.Certificate {
	if pair == nil || len(pair.Certificate) == 0 {
		return nil
	}
	if pair.Leaf != nil {
		return pair.Leaf
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil
	}
	return leaf
}

// swapTransport hands new requests to the newest transport, and lets the others run dry.
type swapTransport struct {
	make    func() *http.Transport
	current atomic.Pointer[http.Transport]
}

func (s *swapTransport) swap() {
	if old := s.current.Swap(s.make()); old != nil {
		old.CloseIdleConnections() // busy ones close when idle for IdleConnTimeout
	}
}

// RoundTrip implements http.RoundTripper.
func (s *swapTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	return s.current.Load().RoundTrip(r)
}

// WrappedRoundTripper lets client-go find the connections below.
func (s *swapTransport) WrappedRoundTripper() http.RoundTripper { return s.current.Load() }

// CloseIdleConnections is called by client-go when a connection seems broken.
func (s *swapTransport) CloseIdleConnections() { s.current.Load().CloseIdleConnections() }
