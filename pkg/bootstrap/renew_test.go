package bootstrap

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	clienttesting "k8s.io/client-go/testing"
)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// node makes a kubeconfig with a certificate by ca, in a folder of its own.
func node(t testing.TB, ca *authority, life time.Duration, servers ...string) (kubeconfig string, pairs *Pairs) {
	t.Helper()
	pairs = NewPairs(filepath.Join(t.TempDir(), "pki"), clientPair)
	save(t, ca, pairs, life)
	text, err := renderKubeconfig(servers, ca.pem(), "n1", pairs.Path())
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig = filepath.Join(filepath.Dir(pairs.dir), "kubelet.conf")
	if err := writeFile(kubeconfig, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return kubeconfig, pairs
}

func save(t testing.TB, ca *authority, pairs *Pairs, life time.Duration) *tls.Certificate {
	t.Helper()
	key, keyPEM, err := pairs.pendingKey()
	if err != nil {
		t.Fatal(err)
	}
	pair, err := pairs.Save(ca.issue(t, nodeSubject("n1"), &key.PublicKey, life), keyPEM, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// TestRotationDropsNothing: a running watch goes on over its connection while later requests use
// the new certificate, whether the agent renewed it or another program replaced the file.
func TestRotationDropsNothing(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "kubernetes")
	more := make(chan string)
	mux := http.NewServeMux()
	mux.HandleFunc("/watch", func(w http.ResponseWriter, r *http.Request) {
		for {
			select {
			case <-r.Context().Done():
				return
			case line := <-more:
				fmt.Fprintln(w, line)
				w.(http.Flusher).Flush()
			}
		}
	})
	mux.HandleFunc("/who", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.TLS.PeerCertificates[0].SerialNumber, r.Proto)
	})
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	server := ca.serve(t, mux, func(c *tls.Config) { c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, pool })
	kubeconfig, pairs := node(t, ca, 2*time.Hour, server)
	creds, err := LoadCredentials(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	client, err := rest.HTTPClientFor(creds.Config(Options{UserAgent: "test"}))
	if err != nil {
		t.Fatal(err)
	}
	who := func() string {
		resp, err := client.Get("https://" + server + "/who")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	serial := func(pair *tls.Certificate) string { return leafOf(pair).SerialNumber.String() + "HTTP/2.0" }
	if got := who(); got != serial(creds.Certificate()) {
		t.Fatalf("at first: %s", got)
	}
	started := make(chan *http.Response)
	go func() {
		resp, err := client.Get("https://" + server + "/watch")
		if err != nil {
			t.Error(err)
		}
		started <- resp
	}()
	more <- "one"
	watch := <-started
	defer watch.Body.Close()
	lines := bufio.NewScanner(watch.Body)

	second := save(t, ca, pairs, 2*time.Hour)
	if changed, err := creds.Reload(time.Now()); err != nil || !changed {
		t.Fatalf("reload: %v, %v", changed, err)
	}
	if changed, err := creds.Reload(time.Now()); err != nil || changed {
		t.Fatalf("reload without a change: %v, %v", changed, err)
	}
	if got := who(); got != serial(second) {
		t.Errorf("after the file was replaced: %s, want %s", got, serial(second))
	}
	third := ca.pair(t, nodeSubject("n1"), 2*time.Hour)
	creds.SetCertificate(&third)
	if got := who(); got != serial(&third) {
		t.Errorf("after rotation: %s, want %s", got, serial(&third))
	}
	go func() { more <- "two" }()
	for _, want := range []string{"one", "two"} {
		if !lines.Scan() || lines.Text() != want {
			t.Fatalf("watch: %q, %v; want %q", lines.Text(), lines.Err(), want)
		}
	}
}

func TestCheckExpiry(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "kubernetes")
	for life, want := range map[time.Duration]error{2 * time.Hour: nil, time.Minute: ErrExpired} {
		kubeconfig, _ := node(t, ca, life, "127.0.0.1:1")
		creds, err := LoadCredentials(kubeconfig)
		if err != nil {
			t.Fatal(err)
		}
		if err := creds.CheckExpiry(time.Now()); !errors.Is(err, want) {
			t.Errorf("life %v: %v", life, err)
		}
		_, err = Ensure(t.Context(), EnsureConfig{
			Kubeconfig: kubeconfig, BootstrapKubeconfig: "/nowhere", CA: "/ca", CertDir: "/certs", NodeName: "n1",
			Now: time.Now, Report: func(Event) {},
		})
		if !errors.Is(err, want) {
			t.Errorf("life %v: ensure: %v", life, err)
		}
	}
	_, err := Ensure(t.Context(), EnsureConfig{Kubeconfig: "/nowhere", BootstrapKubeconfig: "/nowhere", Now: time.Now})
	if ExitCode(err) != int(CodeCertificate) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no identity: %v", err)
	}
}

// TestRenewAt: 70 to 90 % of the lifetime, for any jitter.
func TestRenewAt(t *testing.T) {
	t.Parallel()
	from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for range 1000 {
		life := time.Duration(1 + rand.Int64N(int64(365*24*time.Hour)))
		share := renewAt(from, from.Add(life), rand.Float64()*1.2-0.1).Sub(from).Seconds() / life.Seconds()
		if share < 0.699 || share > 0.901 {
			t.Fatalf("life %v: after %v of it", life, share)
		}
	}
}

// signer is an API server that signs every request, after some failures.
func signer(t testing.TB, ca *authority, failures int, wrongKey bool) (kubernetes.Interface, *atomic.Int64) {
	t.Helper()
	var calls atomic.Int64
	client := fake.NewClientset()
	var last string
	client.PrependReactor("create", "certificatesigningrequests", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if calls.Add(1) <= int64(failures) {
			return true, nil, errors.New("away")
		}
		r := a.(clienttesting.CreateAction).GetObject().(*certificatesv1.CertificateSigningRequest)
		block, _ := pem.Decode(r.Spec.Request)
		request, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil {
			t.Errorf("request: %v", err)
			return true, nil, err
		}
		if r.Spec.SignerName == certificatesv1.KubeAPIServerClientKubeletSignerName && (request.Subject.CommonName != "system:node:n1" ||
			len(request.DNSNames)+len(request.IPAddresses) > 0) {
			t.Errorf("the signer would refuse %v %v", request.Subject, request.DNSNames)
		}
		if wrongKey {
			other, _, err := newKey()
			if err != nil {
				t.Error(err)
			}
			request.PublicKey = &other.PublicKey
		}
		// the fake ignores names and would answer with the previous request
		if last != "" {
			if err := client.Tracker().Delete(certificatesv1.SchemeGroupVersion.WithResource("certificatesigningrequests"), "", last); err != nil {
				t.Error(err)
			}
		}
		r.UID, last = "uid", r.Name
		r.Status.Certificate = ca.sign(t, request, 3*time.Hour)
		r.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved}}
		return false, nil, nil
	})
	return client, &calls
}

func testRenewer(client kubernetes.Interface, pairs *Pairs, current *tls.Certificate) *renewer {
	r := &renewer{
		what: "client", pairs: pairs, now: time.Now, jitter: func() float64 { return 0.5 }, log: quiet(), every: 30 * time.Second,
		client: func() (kubernetes.Interface, error) { return client, nil },
		want:   func() (request, bool) { return clientRequest("n1"), true },
	}
	r.current = func() *tls.Certificate { return current }
	r.install = func(c *tls.Certificate) { current = c }
	return r
}

// TestRenew: nothing happens before the time. Then failures are retried with growing pauses and
// the same key, until the new pair is on disk and in use. No goroutine is left.
func TestRenew(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca := newAuthority(t, "kubernetes")
		pairs := NewPairs(filepath.Join(dir, "pki"), clientPair)
		first := save(t, ca, pairs, 10*time.Hour) // one of them is over
		client, calls := signer(t, ca, 3, false)
		r := testRenewer(client, pairs, first)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.run(ctx) }()
		time.Sleep(6*time.Hour + 59*time.Minute)
		synctest.Wait()
		if calls.Load() != 0 {
			t.Errorf("after 80 %% of its life less a minute there were %d requests", calls.Load())
		}
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		if calls.Load() != 4 || sameLeaf(r.current(), first) {
			t.Errorf("then there were %d requests, want 3 failures and a success", calls.Load())
		}
		if stored, err := pairs.Current(); err != nil || !sameLeaf(stored, r.current()) || pairs.hasPendingKey() {
			t.Errorf("on disk: %v, pending key %v", err, pairs.hasPendingKey())
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		synctest.Wait()
	})
}

// TestRenewRefuses: a certificate for another key is refused, and the one in use stays.
func TestRenewRefuses(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "kubernetes")
	pairs := NewPairs(filepath.Join(t.TempDir(), "pki"), clientPair)
	first := save(t, ca, pairs, time.Hour)
	client, _ := signer(t, ca, 0, true)
	r := testRenewer(client, pairs, first)
	if err := r.renew(t.Context(), "test"); ExitCode(err) != int(CodeCertificate) || !sameLeaf(r.current(), first) {
		t.Errorf("renew: %v", err)
	}
}

// TestPairs: incomplete pairs are never read; old pairs are removed; only root can read secrets.
func TestPairs(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "kubernetes")
	pairs := NewPairs(filepath.Join(t.TempDir(), "a", "pki"), clientPair)
	if _, err := pairs.Current(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("empty: %v", err)
	}
	var last *tls.Certificate
	for range 4 {
		last = save(t, ca, pairs, time.Hour)
	}
	if got, err := pairs.Current(); err != nil || !sameLeaf(got, last) {
		t.Errorf("current: %v", err)
	}
	entries, err := os.ReadDir(pairs.dir)
	if err != nil || len(entries) != 3 {
		t.Errorf("want two pairs and a link, have %v, %v", entries, err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm()&0o077 != 0 && info.Mode()&os.ModeSymlink == 0 {
			t.Errorf("%s: %v %v", e.Name(), info.Mode(), err)
		}
	}
	key, _, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	_, otherPEM, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pairs.Save(ca.issue(t, pkix.Name{}, &key.PublicKey, time.Hour), otherPEM, time.Now()); err == nil {
		t.Error("a certificate was saved with another's key")
	}
	if err := os.Remove(pairs.Path()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(pairs.Path(), []byte("-----BEGIN CERT"), 0o600); err != nil {
		t.Fatal(err)
	}
	if facts, err := certFacts(pairs.Path(), nil); err != nil || facts.fault("n1", time.Now()) == "" {
		t.Errorf("half a file: %+v, %v", facts, err)
	}
}

// TestServing: a self-signed certificate is made at the first need, reused after a restart, and
// made again for a new address; with ByCSR it is requested.
func TestServing(t *testing.T) {
	t.Parallel()
	addresses := []netip.Addr{netip.MustParseAddr("10.0.0.1")}
	c := ServingConfig{
		NodeName: "n1", CertDir: t.TempDir(), Addresses: func() []netip.Addr { return addresses },
		Now: time.Now, Jitter: func() float64 { return 0.5 }, Log: quiet(),
	}
	get := func() *tls.Certificate {
		t.Helper()
		s, err := NewServing(c)
		if err != nil {
			t.Fatal(err)
		}
		pair, err := s.GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		return pair
	}
	first := get()
	if leafOf(first).VerifyHostname("10.0.0.1") != nil || leafOf(first).VerifyHostname("n1") != nil {
		t.Errorf("names %v %v", leafOf(first).DNSNames, leafOf(first).IPAddresses)
	}
	if !sameLeaf(first, get()) {
		t.Error("a restart has made another")
	}
	addresses = append(addresses, netip.MustParseAddr("fd00::1"))
	if second := get(); leafOf(second).VerifyHostname("fd00::1") != nil {
		t.Error("the new address is not in it")
	}
	c.Now = func() time.Time { return time.Now().Add(-2 * time.Hour) } // the clock is set back
	if third := get(); time.Now().Add(-2 * time.Hour).Before(leafOf(third).NotBefore) {
		t.Errorf("it is valid from %s on", leafOf(third).NotBefore)
	}
	c.Now = time.Now
	ca := newAuthority(t, "kubernetes")
	client, calls := signer(t, ca, 0, false)
	s := &Serving{c: c, pairs: NewPairs(c.CertDir, servingPair)}
	s.renewer = testRenewer(client, s.pairs, nil)
	s.renewer.want, s.renewer.current, s.renewer.install = s.request, s.signed.Load, s.signed.Store
	if err := s.renewer.renew(t.Context(), "test"); err != nil || calls.Load() != 1 {
		t.Fatalf("by request: %v", err)
	}
	if pair, err := s.GetCertificate(nil); err != nil || leafOf(pair).Issuer.CommonName != "kubernetes" {
		t.Errorf("by request: %v", err)
	}
}

// TestServingFollowsAddresses: when the node gets another address, the next check requests a new
// certificate, and the old one is used until the new one is there.
func TestServingFollowsAddresses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var addresses atomic.Pointer[[]netip.Addr]
		addresses.Store(&[]netip.Addr{netip.MustParseAddr("10.0.0.1")})
		ca := newAuthority(t, "kubernetes")
		client, calls := signer(t, ca, 0, false)
		s := &Serving{
			c: ServingConfig{
				NodeName: "n1", CertDir: dir, Addresses: func() []netip.Addr { return *addresses.Load() },
				Now: time.Now, Jitter: func() float64 { return 0.5 }, Log: quiet(),
			},
			pairs: NewPairs(dir, servingPair),
		}
		s.renewer = testRenewer(client, s.pairs, nil)
		s.renewer.want, s.renewer.current, s.renewer.install = s.request, s.signed.Load, s.signed.Store
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		shows := func(address string) bool {
			synctest.Wait()
			pair, err := s.GetCertificate(nil)
			if err != nil {
				t.Fatal(err)
			}
			return leafOf(pair).Issuer.CommonName == "kubernetes" && leafOf(pair).VerifyHostname(address) == nil
		}
		time.Sleep(time.Second)
		if !shows("10.0.0.1") || calls.Load() != 1 {
			t.Fatalf("at first there were %d requests", calls.Load())
		}
		addresses.Store(&[]netip.Addr{netip.MustParseAddr("10.0.0.2")})
		if !shows("10.0.0.1") {
			t.Error("the old certificate is not shown any more")
		}
		time.Sleep(s.renewer.every + time.Second)
		if !shows("10.0.0.2") || calls.Load() != 2 {
			t.Errorf("after a look there were %d requests", calls.Load())
		}
		time.Sleep(10 * s.renewer.every)
		if synctest.Wait(); calls.Load() != 2 {
			t.Errorf("nothing has changed, and there were %d requests", calls.Load())
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func sameLeaf(a, b *tls.Certificate) bool {
	return len(a.Certificate) > 0 && len(b.Certificate) > 0 && string(a.Certificate[0]) == string(b.Certificate[0])
}
