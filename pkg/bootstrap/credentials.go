package bootstrap

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Credentials are what a kubeconfig says, with a certificate that can be exchanged while
// connections are in use.
//
// When the certificate changes, new requests go over new connections with it, and requests under
// way, watches above all, end by themselves on the old ones: nothing is dropped. client-go would
// close every connection instead.
type Credentials struct {
	base       rest.Config // host, bearer token, impersonation; no TLS
	tls        *tls.Config // roots, server name
	proxy      func(*http.Request) (*url.URL, error)
	file       *certFile
	kubeconfig string
	servers    *servers
	observe    func(Request)
	cert       atomic.Pointer[tls.Certificate]

	mu         sync.Mutex
	transports []*swapTransport
}

// LoadCredentials reads a kubeconfig. A certificate given by file is read from there again by
// Reload. Plugins that make credentials (exec, auth-provider) are refused: a node has an identity
// of its own.
func LoadCredentials(kubeconfig string) (*Credentials, error) {
	c, certErr, err := readCredentials(kubeconfig)
	if err = errors.Join(err, certErr); err != nil {
		return nil, err
	}
	return c, nil
}

// readCredentials is LoadCredentials that returns credentials without their certificate, and why,
// when that alone cannot be read.
func readCredentials(kubeconfig string) (c *Credentials, certErr, err error) {
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(&clientcmd.ClientConfigLoadingRules{ExplicitPath: kubeconfig}, &clientcmd.ConfigOverrides{})
	base, err := loader.ClientConfig()
	if err != nil {
		return nil, nil, fmt.Errorf("reading kubeconfig %q: %w", kubeconfig, err)
	}
	raw, err := loader.RawConfig() // of the same reading
	if err != nil {
		return nil, nil, fmt.Errorf("reading kubeconfig %q: %w", kubeconfig, err)
	}
	if base.ExecProvider != nil || base.AuthProvider != nil {
		return nil, nil, fmt.Errorf("reading kubeconfig %q: credentials by plugin are not for nodes; use a certificate or a token", kubeconfig)
	}
	c = &Credentials{
		kubeconfig: kubeconfig, proxy: base.Proxy, file: &certFile{cert: base.CertFile, key: base.KeyFile},
		servers: &servers{list: currentContext(&raw).servers},
	}
	if len(c.servers.list) == 0 {
		return nil, nil, fmt.Errorf("reading kubeconfig %q: its current context names no API server and user", kubeconfig)
	}
	if c.proxy == nil {
		c.proxy = http.ProxyFromEnvironment
	}
	if base.CertFile != "" || len(base.CertData) > 0 {
		pair, err := c.file.certOf(base, kubeconfig)
		if err == nil {
			c.cert.Store(pair)
		}
		certErr = err
	}
	server := rest.CopyConfig(base) // the certificate is kept where it can change
	server.CertFile, server.CertData, server.KeyFile, server.KeyData = "", nil, "", nil
	if c.tls, err = rest.TLSConfigFor(server); err != nil {
		return nil, nil, fmt.Errorf("reading kubeconfig %q: %w", kubeconfig, err)
	}
	if c.tls == nil {
		c.tls = &tls.Config{MinVersion: tls.VersionTLS12}
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
	return c, certErr, nil
}

// certFile is where a kubeconfig's certificate is, when it is in a file of its own.
type certFile struct {
	cert, key string
	seen      []byte // what was last read from both
}

// certOf reads the certificate that a kubeconfig names or holds.
func (f *certFile) certOf(base *rest.Config, kubeconfig string) (*tls.Certificate, error) {
	if len(base.CertData) == 0 {
		pair, _, err := f.read()
		return pair, err
	}
	f.cert = "" // what is embedded is taken, as everywhere
	keyPEM := base.KeyData
	if len(keyPEM) == 0 {
		var err error
		if keyPEM, err = os.ReadFile(base.KeyFile); err != nil {
			return nil, fmt.Errorf("reading the client key of kubeconfig %q: %w", kubeconfig, err)
		}
	}
	pair, err := tls.X509KeyPair(base.CertData, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("reading the client certificate in kubeconfig %q: %w", kubeconfig, err)
	}
	return &pair, nil
}

// read reads the files, and says whether they are others than the last time.
func (f *certFile) read() (pair *tls.Certificate, changed bool, err error) {
	certPEM, err := os.ReadFile(f.cert)
	if err != nil {
		return nil, false, fmt.Errorf("reading the client certificate: %w", err)
	}
	keyPEM, err := os.ReadFile(f.key)
	if err != nil {
		return nil, false, fmt.Errorf("reading the client key: %w", err)
	}
	both := slices.Concat(certPEM, []byte{0}, keyPEM)
	changed = !bytes.Equal(both, f.seen)
	f.seen = both
	c, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, changed, fmt.Errorf("reading the client certificate %q: it is empty, half-written or does not belong to its key %q: %w", f.cert, f.key, err)
	}
	return &c, changed, nil
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

// Config returns a configuration with connections of its own: ask for one each for what must not
// wait for the other, such as the lease. Connections are HTTP/2 and probed: a dead one is noticed
// in 15 s.
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
		r.Transport = &reportingTransport{c.observe, r.Transport}
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

// Server is the API server in use, host:port; with others in the kubeconfig it changes when this
// one fails.
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

// Reload takes over a certificate file that another program has replaced since it was last read,
// and reports whether there was another certificate in it. A file that is as it was says nothing:
// the one in use may be a newer one, which the agent has got for itself. Reload is for one caller.
func (c *Credentials) Reload(now time.Time) (bool, error) {
	if c.file.cert == "" {
		return false, nil
	}
	pair, changed, err := c.file.read()
	if !changed {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	old, leaf := leafOf(c.cert.Load()), leafOf(pair)
	switch {
	case old != nil && old.Equal(leaf):
		return false, nil
	case old != nil && old.Subject.CommonName != leaf.Subject.CommonName:
		return false, fmt.Errorf("reading the client certificate %q: it is for %q now, and the one in use, which stays, for %q", c.file.cert, leaf.Subject.CommonName, old.Subject.CommonName)
	case !now.Before(leaf.NotAfter):
		return false, fmt.Errorf("reading the client certificate %q: it expired on %s; the one in use stays", c.file.cert, leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	c.SetCertificate(pair)
	return true, nil
}

func sameLeaf(a, b *tls.Certificate) bool {
	return len(a.Certificate) > 0 && len(b.Certificate) > 0 && string(a.Certificate[0]) == string(b.Certificate[0])
}

// ErrExpired says that the client certificate can no longer be used.
var ErrExpired = errors.New("the client certificate has expired")

// CheckExpiry returns ErrExpired, wrapped with dates and remedy, if the certificate in use is out
// of date.
func (c *Credentials) CheckExpiry(now time.Time) error {
	leaf := leafOf(c.cert.Load())
	if leaf == nil || now.Before(leaf.NotAfter) {
		return nil
	}
	return &Error{
		Code: CodeCertificate, Err: fmt.Errorf("checking the client certificate: %w on %s, it is now %s", ErrExpired,
			leaf.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339)),
		Next: rejoin,
	}
}

// rejoin is how a machine gets a new identity.
const rejoin = "nodeagent join SERVER --token … --rejoin   (running pods are left running)"

// nodeUser is the user that a node is to the API server.
func nodeUser(name string) string { return "system:node:" + name }

// CheckName returns an error, with the remedies, if the certificate in use is another node's:
// everything would be forbidden with it. A certificate of a user that is no node is left to who has
// chosen it.
func (c *Credentials) CheckName(nodeName string) error {
	leaf := leafOf(c.cert.Load())
	if leaf == nil || leaf.Subject.CommonName == nodeUser(nodeName) {
		return nil
	}
	other, isNode := strings.CutPrefix(leaf.Subject.CommonName, nodeUser(""))
	if !isNode {
		return nil
	}
	return &Error{
		Code: CodeCertificate, Err: fmt.Errorf("checking the client certificate: %w: it is that of node %q, and this machine is called %q", errRenamed, other, nodeName),
		Next: fmt.Sprintf("keep the node's name: --hostname-override=%s (nodeName in the configuration); or make it a node of its new name: nodeagent reset, then nodeagent join SERVER --token …", other),
	}
}

// errRenamed marks a certificate that is for another name than the machine has.
var errRenamed = errors.New("the client certificate is another node's")

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
