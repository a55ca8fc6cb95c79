package bootstrap

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/clientcmd"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	"k8s.io/cluster-bootstrap/token/jws"

	"github.com/nodeagent/nodeagent/pkg/sleep"
)

// discovery finds out which cluster answers, and trusts no answer before it is verified.
type discovery struct {
	servers  []string // host:port, tried in turn
	token    Token
	pins     []Pin
	unpinned bool
	// reachFor bounds the wait for an API server that is starting, signedFor that for the
	// signature of a new token.
	reachFor, signedFor time.Duration
	now                 func() time.Time
}

// answer is what one server said; it is not trusted yet.
type answer struct {
	server     string
	kubeconfig string            // data[kubeconfig] of cluster-info, the signed text
	signatures map[string]string // token id → detached JWS
	skew       time.Duration     // this machine's clock minus the server's
}

// signedBy reports whether the token signed the text.
func (a answer) signedBy(t Token) bool {
	return jws.DetachedTokenIsValid(a.signatures[t.id], a.kubeconfig, t.id, t.secret)
}

// cluster is what has been verified.
type cluster struct {
	server string
	ca     []byte // PEM
	certs  []*x509.Certificate
}

const infoPath = "/api/v1/namespaces/kube-public/configmaps/cluster-info"

// maxBody is far more than a cluster-info holds.
const maxBody = 1 << 20

// reach asks each server in turn, again and again, until one returns a cluster-info. It sends
// nothing secret.
func (d *discovery) reach(ctx context.Context) (answer, error) {
	// verify verifies the answer
	client := httpClient(&tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12})
	defer client.CloseIdleConnections()
	end := d.now().Add(d.reachFor)
	for {
		var last error
		for _, s := range d.servers {
			a, err := d.ask(ctx, client, s)
			if err == nil {
				return a, nil
			}
			last = errors.Join(last, err)
		}
		var e *Error
		if errors.As(last, &e) || ctx.Err() != nil || !d.now().Before(end) {
			return answer{}, reachError(last)
		}
		if sleep.For(ctx, 500*time.Millisecond) != nil {
			return answer{}, reachError(last)
		}
	}
}

func reachError(err error) error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	next := "check address, port and firewall from here: curl -k https://HOST:PORT/livez"
	if p := proxyInUse(); p != "" {
		next += "   (a proxy is set: " + p + "; add the address to NO_PROXY)"
	}
	return &Error{Code: CodeReach, Err: err, Next: next}
}

// proxyInUse names the proxy of the environment without its credentials.
func proxyInUse() string {
	u, err := http.ProxyFromEnvironment(&http.Request{URL: &url.URL{Scheme: "https", Host: "cluster.invalid"}})
	if err != nil || u == nil {
		return ""
	}
	return u.Redacted()
}

func httpClient(t *tls.Config) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			TLSClientConfig: t, Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true,
			DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
			TLSHandshakeTimeout: 5 * time.Second, ResponseHeaderTimeout: 10 * time.Second,
		},
		Timeout:       15 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func (d *discovery) ask(ctx context.Context, client *http.Client, server string) (answer, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+server+infoPath, nil)
	if err != nil {
		return answer{}, fmt.Errorf("reaching API server %s: %w", server, err)
	}
	resp, err := client.Do(r)
	if err != nil {
		return answer{}, fmt.Errorf("reaching API server %s: %w", server, err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return answer{}, fmt.Errorf("reading the answer of API server %s: %w", server, err)
	}
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound, http.StatusForbidden, http.StatusUnauthorized:
		return answer{}, infoMissing("asking %s for cluster-info: it answers %s", server, resp.Status)
	default:
		return answer{}, fmt.Errorf("asking %s for cluster-info: it answers %s", server, resp.Status)
	}
	var m corev1.ConfigMap
	if err := json.Unmarshal(body, &m); err != nil || m.Kind != "ConfigMap" {
		return answer{}, fmt.Errorf("asking %s for cluster-info: the answer is not a ConfigMap; is this an API server?", server)
	}
	a := answer{server: server, kubeconfig: m.Data[bootstrapapi.KubeConfigKey], signatures: map[string]string{}}
	for k, v := range m.Data {
		if id, ok := strings.CutPrefix(k, bootstrapapi.JWSSignatureKeyPrefix); ok {
			a.signatures[id] = v
		}
	}
	if at, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		a.skew = d.now().Sub(at)
	}
	if a.kubeconfig == "" {
		return answer{}, infoMissing("asking %s for cluster-info: it holds no kubeconfig", server)
	}
	return a, nil
}

func infoMissing(format string, args ...any) *Error {
	return fail(CodeClusterInfo, "run the controller-manager with --controllers=*,bootstrapsigner,tokencleaner and make the ConfigMap "+
		"(kubeadm init phase bootstrap-token), or join with a kubeconfig: --discovery-file FILE", format, args...)
}

// verify verifies the answer: the signature by the token, the CA by its hash, and the same text
// again from a server whose certificate that CA signed.
func (d *discovery) verify(ctx context.Context, a answer) (cluster, error) {
	a, err := d.signed(ctx, a)
	if err != nil {
		return cluster{}, err
	}
	if !a.signedBy(d.token) {
		return cluster{}, fail(CodeToken, tokenNext, "verifying cluster-info of %s: the signature for token id %q is not by this token: "+
			"its second half is wrong, or somebody changed the text on the way", a.server, d.token.id)
	}
	certs, ca, err := embeddedCA(a)
	if err != nil {
		return cluster{}, err
	}
	roots := certs
	if !d.unpinned || len(d.pins) > 0 {
		if roots = pinned(certs, d.pins); len(roots) == 0 {
			return cluster{}, d.untrusted(a, certs)
		}
	}
	again, err := d.again(ctx, a.server, roots)
	if err != nil {
		return cluster{}, err
	}
	if !bytes.Equal([]byte(again.kubeconfig), []byte(a.kubeconfig)) {
		return cluster{}, fail(CodeTrust, "somebody may be between here and the cluster: join from another network, or check the proxies on the way",
			"verifying cluster-info of %s: over verified TLS the text is not the same as before", a.server)
	}
	return cluster{a.server, ca, certs}, nil
}

func (d *discovery) untrusted(a answer, certs []*x509.Certificate) error {
	seen := pinTexts(pinsOf(certs))
	if len(d.pins) == 0 {
		return fail(CodeTrust, "compare with the control plane's own: kubeadm token create --print-join-command; then add --discovery-token-ca-cert-hash "+seen,
			"verifying the cluster's CA: no hash was given; the CA seen at %s has %s", a.server, seen)
	}
	return fail(CodeTrust, "this is another cluster, or somebody between here and it; on the control plane: kubeadm token create --print-join-command",
		"verifying the cluster's CA: wanted %s, the CA seen at %s has %s", pinTexts(d.pins), a.server, seen)
}

// signed waits a little for the signature: the signer takes a moment to sign for a new token.
func (d *discovery) signed(ctx context.Context, a answer) (answer, error) {
	client := httpClient(&tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12})
	defer client.CloseIdleConnections()
	start := d.now()
	for a.signatures[d.token.id] == "" {
		limit := d.signedFor
		if len(a.signatures) == 0 { // the signer itself may have just started
			limit *= 3
		}
		if d.now().Sub(start) >= limit || sleep.For(ctx, 500*time.Millisecond) != nil {
			if len(a.signatures) == 0 {
				return a, infoMissing("verifying cluster-info of %s: it is not signed by any token: the bootstrapsigner controller does not run", a.server)
			}
			return a, fail(CodeToken, tokenNext, "verifying cluster-info of %s: no signature for token id %q: the token has expired, never existed, or may not sign",
				a.server, d.token.id)
		}
		if b, err := d.ask(ctx, client, a.server); err == nil {
			b.skew = a.skew
			a = b
		}
	}
	return a, nil
}

func embeddedCA(a answer) ([]*x509.Certificate, []byte, error) {
	c, err := clientcmd.Load([]byte(a.kubeconfig))
	if err != nil {
		return nil, nil, infoMissing("reading cluster-info of %s: its kubeconfig: %w", a.server, err)
	}
	for _, cl := range c.Clusters {
		certs, err := parseCAs(cl.CertificateAuthorityData)
		if err != nil {
			return nil, nil, infoMissing("reading cluster-info of %s: %w", a.server, err)
		}
		return certs, cl.CertificateAuthorityData, nil
	}
	return nil, nil, infoMissing("reading cluster-info of %s: its kubeconfig names no cluster", a.server)
}

// again fetches cluster-info over TLS that roots verify.
func (d *discovery) again(ctx context.Context, server string, roots []*x509.Certificate) (answer, error) {
	pool := x509.NewCertPool()
	for _, c := range roots {
		pool.AddCert(c)
	}
	client := httpClient(&tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12, Time: d.now})
	defer client.CloseIdleConnections()
	a, err := d.ask(ctx, client, server)
	var bad *tls.CertificateVerificationError
	switch {
	case errors.As(err, &bad):
		return a, tlsError(server, bad)
	case err != nil:
		return a, reachError(err)
	}
	return a, nil
}

func tlsError(server string, err *tls.CertificateVerificationError) error {
	var host x509.HostnameError
	if errors.As(err, &host) {
		return fail(CodeTrust, "join by a name or address that the certificate has, or add this one to it (kubeadm init --apiserver-cert-extra-sans)",
			"verifying API server %s: %w", server, err)
	}
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		return fail(CodeClock, "compare the clocks: date -u, here and on the control plane", "verifying API server %s: %w", server, err)
	}
	seen := "none"
	if n := len(err.UnverifiedCertificates); n > 0 {
		seen = PinOf(err.UnverifiedCertificates[n-1]).String()
	}
	return fail(CodeTrust, "this is another cluster, or somebody between here and it", "verifying API server %s: its certificate (%s) is not by the cluster's CA: %w", server, seen, err)
}
