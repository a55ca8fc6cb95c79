package join_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/nodeagent/nodeagent/test/bed"
)

// fault handles a request between a joining machine and the API server. It returns true if it has
// answered.
type fault func(w http.ResponseWriter, r *http.Request) bool

// between is a proxy in front of the API server that injects faults, with a certificate of the
// cluster's CA or of another.
type between struct {
	m       *machine
	address string
	fault   atomic.Pointer[fault]
	answer  atomic.Pointer[func(*http.Response)]
	foreign atomic.Bool
	key     *ecdsa.PrivateKey
	good    tls.Certificate
	bad     tls.Certificate
}

func newBetween(m *machine) *between {
	m.t.Helper()
	b := &between{m: m}
	must := func(err error) {
		m.t.Helper()
		if err != nil {
			m.t.Fatal(err)
		}
	}
	caCert, caKey := loadCA(m)
	var err error
	b.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "between"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.ParseIP("192.168.77.1")}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, caCert, &b.key.PublicKey, caKey)
	must(err)
	b.good = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: b.key}
	der, err = x509.CreateCertificate(rand.Reader, template, template, &b.key.PublicKey, b.key)
	must(err)
	b.bad = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: b.key}

	listener := listenIn(m.t, m.c.NetNS())
	b.address = "192.168.77.1:" + strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
	to := &url.URL{Scheme: "https", Host: m.c.Server()}
	roots := x509.NewCertPool()
	roots.AddCert(caCert)
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) },
		Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: roots},
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				return m.c.Dial(ctx, network, address)
			},
		},
		FlushInterval: -1,
		ModifyResponse: func(r *http.Response) error {
			if f := b.answer.Load(); f != nil {
				(*f)(r)
			}
			return nil
		},
		ErrorLog: log.New(io.Discard, "", 0),
	}
	server := &http.Server{
		ErrorLog: log.New(io.Discard, "", 0),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if f := b.fault.Load(); f != nil && (*f)(w, r) {
				return
			}
			proxy.ServeHTTP(w, r)
		}),
		TLSConfig: &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			if b.foreign.Load() {
				return &b.bad, nil
			}
			return &b.good, nil
		}},
	}
	go func() { _ = server.ServeTLS(listener, "", "") }()
	m.t.Cleanup(func() { _ = server.Close() })
	return b
}

func loadCA(m *machine) (*x509.Certificate, any) {
	m.t.Helper()
	pair, err := tls.LoadX509KeyPair(m.c.CAFile(), strings.TrimSuffix(m.c.CAFile(), ".crt")+".key")
	if err != nil {
		m.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		m.t.Fatal(err)
	}
	return cert, pair.PrivateKey
}

// listenIn listens in the control plane's network namespace.
func listenIn(t *testing.T, netns string) net.Listener {
	t.Helper()
	l, err := bed.Listen(netns, "192.168.77.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (b *between) clear() {
	b.fault.Store(nil)
	b.answer.Store(nil)
	b.foreign.Store(false)
}

// at answers requests with this method whose path has this suffix.
func at(method, suffix string, answer http.HandlerFunc) fault {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != method || !strings.HasSuffix(r.URL.Path, suffix) {
			return false
		}
		answer(w, r)
		return true
	}
}

func status(code int, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		_, _ = io.WriteString(w, text)
	}
}

func hangUp(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

func half(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "4000")
	_, _ = io.WriteString(w, `{"kind":"ConfigMap","data":{`)
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

// replaceBody changes the response body of paths with this suffix.
func replaceBody(suffix string, change func([]byte) []byte) func(*http.Response) {
	return func(r *http.Response) {
		if !strings.HasSuffix(r.Request.URL.Path, suffix) {
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		body = change(body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		r.ContentLength = int64(len(body))
		r.Header.Set("Content-Length", strconv.Itoa(len(body)))
	}
}

// otherKey replaces the machine's certificate request with one for another key.
func (b *between) otherKey(_ http.ResponseWriter, r *http.Request) bool {
	if r.Method != http.MethodPost || !strings.HasSuffix(r.URL.Path, "/certificatesigningrequests") {
		return false
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return false
	}
	object, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, nil)
	if err != nil {
		return false
	}
	csr := object.(*certificatesv1.CertificateSigningRequest)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{Organization: []string{"system:nodes"}, CommonName: "system:node:" + b.m.node.Name},
	}, b.key)
	if err != nil {
		return false
	}
	csr.APIVersion, csr.Kind = "certificates.k8s.io/v1", "CertificateSigningRequest"
	csr.Spec.Request = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	if body, err = json.Marshal(csr); err != nil {
		return false
	}
	r.Header.Set("Content-Type", "application/json")
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return false
}

// TestFaults: whatever the fault, a join exits with the right code, says what to do and leaves no
// identity, and the same join succeeds once the cause is gone.
func TestFaults(t *testing.T) {
	m := newMachine(t)
	b := newBetween(m)
	const info, csrs = "/configmaps/cluster-info", "/certificatesigningrequests"
	args := append([]string{b.address, "--ignore", "proxy-rbac"}, m.good()[1:]...)
	set := func(f fault) func() { return func() { b.fault.Store(&f) } }
	change := func(f func(*http.Response)) func() { return func() { b.answer.Store(&f) } }
	for _, c := range []struct {
		name  string
		fault func()
		code  int
		says  string
	}{
		{"500", set(at("GET", info, status(500, "broken"))), 11, "500"},
		{"429", set(at("GET", info, status(429, "busy"))), 11, "429"},
		{"HTML", set(at("GET", info, status(200, "<html>login</html>"))), 11, "is this an API server"},
		{"nothing", set(at("GET", info, hangUp)), 11, "reaching API server"},
		{"silence", set(at("GET", info, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })), 11, "deadline"},
		{"half of a response", set(at("GET", info, half)), 11, "reading the answer"},
		{"no cluster-info", set(at("GET", info, status(404, "{}"))), 14, "bootstrapsigner"},
		{"no signature", change(replaceBody(info, func(b []byte) []byte {
			return bytes.ReplaceAll(b, []byte("jws-kubeconfig-"), []byte("not-kubeconfig-"))
		})), 14, "not signed by any token"},
		{"another certificate", func() { b.foreign.Store(true) }, 12, "not by the cluster's CA"},
		{"a changed text", change(replaceBody(info, func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("192.168.77.1"), []byte("192.168.77.9")) })), 13, "changed the text"},
		{"another clock", change(func(r *http.Response) { r.Header.Set("Date", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)) }), 20, "timedatectl"},
		{"a newer API server", change(replaceBody("/version", func(b []byte) []byte { return bytes.ReplaceAll(b, []byte(`"minor": "36"`), []byte(`"minor": "41"`)) })), 17, "1.41"},
		{"an older API server", change(replaceBody("/version", func(b []byte) []byte { return bytes.ReplaceAll(b, []byte(`"minor": "36"`), []byte(`"minor": "35"`)) })), 17, "never newer"},
		{"token refused", set(at("GET", "/version", status(401, "{}"))), 13, "does not accept the token"},
		{"token may not ask for certificates", set(at("POST", csrs, status(403, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403}`))), 13, "system:node-bootstrapper"},
		{"500 for the request", set(at("POST", csrs, status(500, "broken"))), 15, "it goes on where it stopped"},
		{"signed for another key", set(b.otherKey), 15, "another key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			// On a busy machine a join may need longer to get as far as the fault.
			for _, limit := range []string{"3s", "30s"} {
				b.clear()
				m.forget()
				c.fault()
				out, code := m.run("", append(args, "--timeout", limit)...)
				if m.joined() {
					t.Fatal("joined")
				}
				if code == c.code && strings.Contains(out, c.says) && strings.Contains(out, "next: ") {
					break
				}
				if limit == "30s" {
					t.Errorf("exit %d, want %d and %q", code, c.code, c.says)
				}
			}
			b.clear()
			if _, code := m.run("", m.good()...); code != 0 || !m.joined() {
				t.Errorf("when the cause is gone: exit %d", code)
			}
		})
	}
}

// TestPreflightFaults: preflight checks clock and version like join, before anything else is tried.
func TestPreflightFaults(t *testing.T) {
	m := newMachine(t)
	b := newBetween(m)
	for _, c := range []struct {
		check, says string
		code        int
		change      func(*http.Response)
	}{
		{"clock", "timedatectl", 20, func(r *http.Response) {
			r.Header.Set("Date", time.Now().Add(-2*time.Minute).UTC().Format(http.TimeFormat))
		}},
		{"version", "1.41", 17, replaceBody("/version", func(b []byte) []byte { return bytes.ReplaceAll(b, []byte(`"minor": "36"`), []byte(`"minor": "41"`)) })},
	} {
		b.answer.Store(&c.change)
		if out, code := m.verb("preflight", b.address); code != c.code || !strings.Contains(out, c.says) || !strings.Contains(out, "--ignore "+c.check) {
			t.Errorf("%s: exit %d, want %d and %q", c.check, code, c.code, c.says)
		}
		if _, code := m.verb("preflight", b.address, "--ignore", c.check); code != 0 {
			t.Errorf("%s ignored: exit %d", c.check, code)
		}
	}
	b.clear()
	if _, code := m.verb("preflight", b.address); code != 0 {
		t.Errorf("when the cause is gone: exit %d", code)
	}
}

// TestDisk: a full or read-only disk is reported, and nothing half-written stays.
func TestDisk(t *testing.T) {
	m := newMachine(t)
	on := func(script string) {
		t.Helper()
		if out, err := m.node.Output(t.Context(), "sh", "-c", script); err != nil {
			t.Fatal(err, out)
		}
	}
	on("mkdir -p /etc/kubernetes /var/lib/kubelet/pki")
	for _, c := range []struct{ name, make, undo, says string }{
		{"full disk", "mount -t tmpfs -o size=4k none /etc/kubernetes && mkdir /etc/kubernetes/pki && head -c 4096 /dev/zero >/etc/kubernetes/fill || true", "umount /etc/kubernetes", "no space left"},
		{"read-only /etc", "mount --bind /etc /etc && mount -o remount,bind,ro /etc", "umount /etc", "read-only"},
		{"full disk for keys", "mount -t tmpfs -o size=4k none /var/lib/kubelet/pki && head -c 4096 /dev/zero >/var/lib/kubelet/pki/fill || true", "umount /var/lib/kubelet/pki", "no space left"},
	} {
		t.Run(c.name, func(t *testing.T) {
			on(c.make)
			out, code := m.run("", m.good()...)
			left, err := m.node.Output(t.Context(), "sh", "-c", "find /etc/kubernetes /var/lib/kubelet -name '.*' -o -name '*.pem' -o -name kubelet.conf")
			on(c.undo)
			if code != 10 || !strings.Contains(out, c.says) || !strings.Contains(out, "next: ") || err != nil || strings.TrimSpace(left) != "" {
				t.Errorf("exit %d, want 10 and %q; left: %q %v", code, c.says, left, err)
			}
			if _, code := m.run("", m.good()...); code != 0 || !m.joined() {
				t.Errorf("when there is room: exit %d", code)
			}
			m.forget()
			on("mkdir -p /etc/kubernetes /var/lib/kubelet/pki")
		})
	}
}

// TestKilled: a join that is killed at any of its requests leaves nothing that breaks the next one.
func TestKilled(t *testing.T) {
	m := newMachine(t)
	b := newBetween(m)
	for n := 1; ; n++ {
		b.clear()
		m.forget()
		var seen atomic.Int32
		reached := make(chan struct{})
		f := fault(func(_ http.ResponseWriter, r *http.Request) bool {
			if int(seen.Add(1)) == n {
				close(reached)
				<-r.Context().Done() // until the process is gone
			}
			return false
		})
		b.fault.Store(&f)
		p, err := m.node.Start(bed.Spec{Name: "join", Path: m.program, Args: append([]string{"join", b.address, "--ignore", "proxy-rbac", "--timeout", "60s"}, m.good()[1:]...)})
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-reached:
			if err := p.Kill(); err != nil {
				t.Fatal(err)
			}
		case <-p.Done():
			if n < 5 {
				t.Fatalf("the join ended after %d requests: %v", seen.Load(), p.Err())
			}
			t.Logf("a join makes %d requests", seen.Load())
			return
		}
		<-p.Done()
		b.clear()
		if _, code := m.run("", m.good()...); code != 0 || !m.joined() {
			t.Errorf("after a kill at request %d: exit %d", n, code)
		}
		m.checkFiles()
	}
}
