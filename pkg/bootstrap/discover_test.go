package bootstrap

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cluster-bootstrap/token/jws"
)

// authority is a CA for tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	key, _, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key}
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// issue signs a certificate for this machine, valid from one hour ago.
func (a *authority) issue(t testing.TB, subject pkix.Name, public any, life time.Duration) []byte {
	t.Helper()
	return a.sign(t, &x509.CertificateRequest{Subject: subject, PublicKey: public, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}, life)
}

// sign signs a request; the certificate is valid from one hour ago.
func (a *authority) sign(t testing.TB, r *x509.CertificateRequest, life time.Duration) []byte {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: r.Subject, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(-time.Hour).Add(life),
		DNSNames: r.DNSNames, IPAddresses: r.IPAddresses, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, r.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func (a *authority) pair(t testing.TB, subject pkix.Name, life time.Duration) tls.Certificate {
	t.Helper()
	key, keyPEM, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(a.issue(t, subject, &key.PublicKey, life), keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// serve starts a TLS server with a certificate by a, and returns its host:port.
func (a *authority) serve(t testing.TB, h http.Handler, configure func(*tls.Config)) string {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.EnableHTTP2 = true
	s.TLS = &tls.Config{Certificates: []tls.Certificate{a.pair(t, pkix.Name{CommonName: "kube-apiserver"}, 2*time.Hour)}}
	if configure != nil {
		configure(s.TLS)
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

var testToken = Token{"abcdef", "0123456789abcdef"}

// info is a cluster-info as the bootstrap signer writes it.
func info(t testing.TB, ca []byte, signers ...Token) corev1.ConfigMap {
	t.Helper()
	kubeconfig := fmt.Sprintf("apiVersion: v1\nkind: Config\nclusters:\n- name: \"\"\n  cluster:\n    server: https://10.0.0.1:6443\n    certificate-authority-data: %s\n",
		base64.StdEncoding.EncodeToString(ca))
	m := corev1.ConfigMap{TypeMeta: metav1.TypeMeta{Kind: "ConfigMap", APIVersion: "v1"}, Data: map[string]string{"kubeconfig": kubeconfig}}
	for _, s := range signers {
		signature, err := jws.ComputeDetachedSignature(kubeconfig, s.id, s.secret)
		if err != nil {
			t.Fatal(err)
		}
		m.Data["jws-kubeconfig-"+s.id] = signature
	}
	return m
}

func answerWith(m corev1.ConfigMap) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			http.Error(w, "a secret was sent", http.StatusTeapot)
			return
		}
		_ = json.NewEncoder(w).Encode(m)
	})
}

func discover(t testing.TB, d discovery) (cluster, error) {
	t.Helper()
	d.now = time.Now
	if d.reachFor == 0 {
		d.reachFor = 50 * time.Millisecond
	}
	d.signedFor = 50 * time.Millisecond
	a, err := d.reach(t.Context())
	if err != nil {
		return cluster{}, err
	}
	return d.verify(t.Context(), a)
}

// TestDiscoveryFaults: each fault of the other end is an error of its code.
func TestDiscoveryFaults(t *testing.T) {
	t.Parallel()
	real, other := newAuthority(t, "kubernetes"), newAuthority(t, "kubernetes")
	pin, otherPin := PinOf(real.cert), PinOf(other.cert)
	good := info(t, real.pem(), testToken)
	respond := func(status int, body string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		})
	}
	tampered := info(t, real.pem(), testToken)
	tampered.Data["kubeconfig"] += " "
	noConfig := info(t, real.pem(), testToken)
	delete(noConfig.Data, "kubeconfig")
	leaf := real.pair(t, pkix.Name{CommonName: "leaf"}, 2*time.Hour)
	notCA := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Certificate[0]})
	var calls atomic.Int64
	changing := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m := good
		if calls.Add(1) > 1 { // what the unverified fetch saw is not what the verified one sees
			m = info(t, append(real.pem(), other.pem()...), testToken)
		}
		answerWith(m).ServeHTTP(w, r)
	})
	for _, c := range []struct {
		name    string
		by      *authority
		handler http.Handler
		tls     func(*tls.Config)
		d       discovery
		code    Code
		says    string
	}{
		{"good", real, answerWith(good), nil, discovery{pins: []Pin{otherPin, pin}}, 0, ""},
		{"good, unpinned", real, answerWith(good), nil, discovery{unpinned: true}, 0, ""},
		{"bundle of two", real, answerWith(info(t, append(other.pem(), real.pem()...), testToken)), nil, discovery{pins: []Pin{pin}}, 0, ""},
		{"no pin", real, answerWith(good), nil, discovery{}, CodeTrust, pin.String()},
		{"other pin", real, answerWith(good), nil, discovery{pins: []Pin{otherPin}}, CodeTrust, pin.String()},
		{"pins win over unpinned", real, answerWith(good), nil, discovery{pins: []Pin{otherPin}, unpinned: true}, CodeTrust, "wanted"},
		{"man in the middle", other, answerWith(good), nil, discovery{pins: []Pin{pin}}, CodeTrust, "not by the cluster's CA"},
		{"man in the middle, unpinned", other, answerWith(good), nil, discovery{unpinned: true}, CodeTrust, "not by the cluster's CA"},
		{"pinned CA is not the server's", other, answerWith(info(t, append(real.pem(), other.pem()...), testToken)), nil, discovery{pins: []Pin{pin}}, CodeTrust, "not by"},
		{"changed in between", real, changing, nil, discovery{pins: []Pin{pin}}, CodeTrust, "not the same"},
		{"text changed", real, answerWith(tampered), nil, discovery{pins: []Pin{pin}}, CodeToken, "second half is wrong"},
		{"signed by another token's secret", real, answerWith(info(t, real.pem(), Token{"abcdef", "ffffffffffffffff"})), nil, discovery{pins: []Pin{pin}}, CodeToken, "second half"},
		{"signed by another token", real, answerWith(info(t, real.pem(), Token{"zzzzzz", "0123456789abcdef"})), nil, discovery{pins: []Pin{pin}}, CodeToken, "expired"},
		{"not signed", real, answerWith(info(t, real.pem())), nil, discovery{pins: []Pin{pin}}, CodeClusterInfo, "bootstrapsigner"},
		{"no kubeconfig in it", real, answerWith(noConfig), nil, discovery{pins: []Pin{pin}}, CodeClusterInfo, "no kubeconfig"},
		{"no CA in it", real, answerWith(info(t, nil, testToken)), nil, discovery{pins: []Pin{pin}}, CodeClusterInfo, "no certificate"},
		{"a leaf as CA", real, answerWith(info(t, notCA, testToken)), nil, discovery{pins: []Pin{PinOf(leafOf(&leaf))}}, CodeClusterInfo, "not a CA"},
		{"404", real, respond(404, "{}"), nil, discovery{}, CodeClusterInfo, "404"},
		{"403", real, respond(403, "{}"), nil, discovery{}, CodeClusterInfo, "403"},
		{"500", real, respond(500, "oops"), nil, discovery{}, CodeReach, "500"},
		{"429", real, respond(429, ""), nil, discovery{}, CodeReach, "429"},
		{"a page", real, respond(200, "<html>hello"), nil, discovery{}, CodeReach, "is this an API server"},
		{"a redirect", real, http.RedirectHandler("https://127.0.0.1:1/", http.StatusFound), nil, discovery{}, CodeReach, "302"},
		{"half of an answer", real, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, `{"kind":"ConfigMap"`)
		}), nil, discovery{}, CodeReach, "reading the answer"},
		{"nothing at all", real, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }), nil, discovery{}, CodeReach, "reaching"},
		{"TLS 1.1", real, answerWith(good), func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }, discovery{}, CodeReach, "reaching"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.d.servers = []string{c.by.serve(t, c.handler, c.tls)}
			c.d.token = testToken
			got, err := discover(t, c.d)
			if Code(ExitCode(err)) != c.code {
				t.Fatalf("code %d, want %d: %v", ExitCode(err), c.code, err)
			}
			if err == nil {
				if len(got.certs) == 0 || got.server != c.d.servers[0] {
					t.Errorf("cluster %+v", got)
				}
				return
			}
			var e *Error
			if !errors.As(err, &e) || e.Next == "" || !strings.Contains(err.Error(), c.says) {
				t.Errorf("want it to say %q and what to do next: %v", c.says, err)
			}
			if strings.Contains(err.Error(), testToken.secret) {
				t.Errorf("the error holds the secret: %v", err)
			}
		})
	}
}

// TestClock: certificates are verified at the given time, and the difference of clocks is
// measured.
func TestClock(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "kubernetes")
	server := ca.serve(t, answerWith(info(t, ca.pem(), testToken)), nil)
	for off, want := range map[time.Duration]Code{0: 0, 48 * time.Hour: CodeClock} {
		d := discovery{
			servers: []string{server}, token: testToken, pins: []Pin{PinOf(ca.cert)}, reachFor: time.Second, signedFor: time.Second,
			now: func() time.Time { return time.Now().Add(off) },
		}
		a, err := d.reach(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if d := a.skew - off; d.Abs() > 5*time.Second {
			t.Errorf("clock off by %v, measured %v", off, a.skew)
		}
		if _, err := d.verify(t.Context(), a); Code(ExitCode(err)) != want {
			t.Errorf("clock off by %v: %v", off, err)
		}
	}
}

// TestServersInTurn: the first server that answers is used; if none does, all are asked again.
func TestServersInTurn(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "kubernetes")
	var calls atomic.Int64
	good := answerWith(info(t, ca.pem(), testToken))
	server := ca.serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) == 1 {
			http.Error(w, "starting", http.StatusServiceUnavailable)
			return
		}
		good.ServeHTTP(w, r)
	}), nil)
	c, err := discover(t, discovery{servers: []string{"127.0.0.1:1", server}, token: testToken, pins: []Pin{PinOf(ca.cert)}, reachFor: 10 * time.Second})
	if err != nil || c.server != server {
		t.Errorf("server %q: %v", c.server, err)
	}
}
