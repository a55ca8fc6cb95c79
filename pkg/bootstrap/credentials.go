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

// Credentials are those of a kubeconfig, with a certificate that can be exchanged while
// connections are in use.
//
// When the certificate changes, new requests use new connections with it. Requests under way,
// watches above all, go on over the old connections until they end. client-go would close every
// connection instead.
type Credentials struct {
	base    rest.Config // host, bearer token, impersonation; no TLS
	tls     *tls.Config // roots, server name
	proxy   func(*http.Request) (*url.URL, error)
	file    *certFile
	servers *servers
	observe func(Request)
	cert    atomic.Pointer[tls.Certificate]

	mu         sync.Mutex
	transports []*swapTransport
}

// LoadCredentials reads a kubeconfig. Reload reads a certificate file again. Credential plugins
// (exec, auth-provider) are an error: a node has an identity of its own.
func LoadCredentials(kubeconfig string) (*Credentials, error) {
	c, certErr, err := readCredentials(kubeconfig)
	if err = errors.Join(err, certErr); err != nil {
		return nil, err
	}
	return c, nil
}

// readCredentials is like LoadCredentials, but if only the certificate cannot be read, it returns
// the credentials without it, and certErr.
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
		return nil, nil, fmt.Errorf("reading kubeconfig %q: nodes cannot use credential plugins; use a certificate or a token", kubeconfig)
	}
	c = &Credentials{
		proxy: base.Proxy, file: &certFile{cert: base.CertFile, key: base.KeyFile},
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
	server := rest.CopyConfig(base) // Credentials hold the certificate, which can change
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
		return &tls.Certificate{}, nil // crypto/tls takes an empty one for none
	}
	base.TLSClientConfig = rest.TLSClientConfig{}
	base.Proxy = nil
	c.base = *base
	return c, certErr, nil
}

// certFile is a kubeconfig's certificate in a file of its own.
type certFile struct {
	cert, key string
	seen      []byte // the last content of both files
}

// certOf reads the certificate that a kubeconfig names or holds.
func (f *certFile) certOf(base *rest.Config, kubeconfig string) (*tls.Certificate, error) {
	if len(base.CertData) == 0 {
		pair, _, err := f.read()
		return pair, err
	}
	f.cert = "" // as in client-go, an embedded certificate wins
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

// read reads the files and reports whether they have changed since the last time.
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
		return nil, changed, fmt.Errorf("reading the client certificate %q: it is empty, incomplete or does not belong to its key %q: %w", f.cert, f.key, err)
	}
	return &c, changed, nil
}

// Options are those of one client of the API server.
type Options struct {
	// UserAgent; QPS and Burst, QPS below 0: no limit.
	UserAgent string
	QPS       float32
	Burst     int
	// ContentType; empty: JSON. Timeout of a whole request; 0: none, as watches need it.
	ContentType string
	Timeout     time.Duration
}

// Config returns a configuration with connections of its own: clients that must not wait for each
// other, such as the lease's, each need one. Connections are HTTP/2, and a dead one is detected
// within 15 s.
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

// Observe calls f for each request of the clients made from now on.
func (c *Credentials) Observe(f func(Request)) { c.observe = f }

func (c *Credentials) transport() *http.Transport {
	patience := 10 * time.Second
	if len(c.servers.list) > 1 {
		patience = 3 * time.Second // leaves the heartbeat time to try another address
	}
	return &http.Transport{
		TLSClientConfig: c.tls.Clone(), Proxy: c.proxy, ForceAttemptHTTP2: true,
		DialContext:         (&net.Dialer{Timeout: patience, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout: patience, IdleConnTimeout: 90 * time.Second, MaxIdleConnsPerHost: 25,
		HTTP2: &http.HTTP2Config{SendPingTimeout: 10 * time.Second, PingTimeout: 5 * time.Second, WriteByteTimeout: 15 * time.Second},
	}
}

// Certificate is the one in use; nil if the kubeconfig has a token instead.
func (c *Credentials) Certificate() *tls.Certificate { return c.cert.Load() }

// Server is the API server in use, host:port. It changes when this one fails and the kubeconfig
// has others.
func (c *Credentials) Server() string { return c.servers.current() }

// Expires is the end of the certificate in use; the zero time without one.
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

// Reload uses a certificate file that another program has replaced since it was last read, and
// reports whether it holds another certificate. It ignores an unchanged file: the agent may use a
// newer certificate that it obtained itself. Reload must not be called concurrently.
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
		return false, fmt.Errorf("reading the client certificate %q: it is for %q now; the one in use, which stays, is for %q", c.file.cert, leaf.Subject.CommonName, old.Subject.CommonName)
	case !now.Before(leaf.NotAfter):
		return false, fmt.Errorf("reading the client certificate %q: it expired on %s; the one in use stays", c.file.cert, leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	c.SetCertificate(pair)
	return true, nil
}

// ErrExpired means that the client certificate has expired.
var ErrExpired = errors.New("the client certificate has expired")

// CheckExpiry returns ErrExpired, wrapped with dates and remedy, if the certificate in use has
// expired.
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

// rejoin is the command that gets a machine a new identity.
const rejoin = "nodeagent join SERVER --token … --rejoin   (running pods are left running)"

// nodeUser is the user name of a node.
func nodeUser(name string) string { return "system:node:" + name }

// CheckName returns an error, with the remedies, if the certificate in use is another node's: the
// API server would forbid every request. The certificate of a user that is no node is not checked.
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

// errRenamed means that the certificate is for another name than this machine's.
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

// swapTransport sends new requests through the newest transport; requests under way end on the
// older ones.
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

// WrappedRoundTripper gives client-go access to the connections below.
func (s *swapTransport) WrappedRoundTripper() http.RoundTripper { return s.current.Load() }

// CloseIdleConnections is called by client-go when a connection seems broken.
func (s *swapTransport) CloseIdleConnections() { s.current.Load().CloseIdleConnections() }
