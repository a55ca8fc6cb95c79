package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// authority signs certificates for tests.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return authority{t, c, key}
}

func (a authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

func (a authority) sign(change func(*x509.Certificate)) *x509.Certificate {
	c := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "alice", Organization: []string{"ops"}},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Minute),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	change(c)
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, a.key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		a.t.Fatal(err)
	}
	return c
}

func request(cert *x509.Certificate, token string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "https://node/pods", nil)
	r.TLS = &tls.ConnectionState{}
	if cert != nil {
		r.TLS.PeerCertificates = []*x509.Certificate{cert}
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return r
}

// apiServer reviews the token "good" and allows alice what `allow` names; it counts what it is
// asked.
func apiServer(allow string, asked *int) *fake.Clientset {
	c := fake.NewClientset()
	c.PrependReactor("create", "tokenreviews", func(a clienttesting.Action) (bool, kruntime.Object, error) {
		*asked++
		r := a.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenReview)
		if r.Spec.Token == "broken" {
			return true, nil, errors.New("no answer")
		}
		r.Status.Authenticated = r.Spec.Token == "good"
		r.Status.User.Username = "alice"
		return true, r, nil
	})
	c.PrependReactor("create", "subjectaccessreviews", func(a clienttesting.Action) (bool, kruntime.Object, error) {
		*asked++
		r := a.(clienttesting.CreateAction).GetObject().(*authorizationv1.SubjectAccessReview)
		at := r.Spec.ResourceAttributes
		r.Status.Allowed = r.Spec.User == "alice" && at.Name == "node" && at.Verb+" "+at.Subresource == allow
		return true, r, nil
	})
	return c
}

func TestAuthenticate(t *testing.T) {
	ours, theirs := newAuthority(t, "ours"), newAuthority(t, "theirs")
	asked := 0
	client := apiServer("", &asked)
	for _, c := range []struct {
		name      string
		cert      *x509.Certificate
		token     string
		anonymous bool
		want      string // user; "" for refused
	}{
		{"valid certificate", ours.sign(func(*x509.Certificate) {}), "", false, "alice"},
		{"certificate of another authority", theirs.sign(func(*x509.Certificate) {}), "", false, ""},
		{"certificate of another authority is not anonymous", theirs.sign(func(*x509.Certificate) {}), "", true, ""},
		{"expired certificate", ours.sign(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }), "", false, ""},
		{"certificate of the future", ours.sign(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }), "", false, ""},
		{"serving certificate", ours.sign(func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		}), "", false, ""},
		{"certificate without a name", ours.sign(func(c *x509.Certificate) { c.Subject.CommonName = "" }), "", false, ""},
		{"good token", nil, "good", false, "alice"},
		{"bad token", nil, "bad", false, ""},
		{"bad token is not anonymous", nil, "bad", true, ""},
		{"API server does not answer", nil, "broken", true, ""},
		{"nothing", nil, "", false, ""},
		{"nothing, anonymous allowed", nil, "", true, "system:anonymous"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := NewAuth(AuthConfig{
				ClientCA: ours.pool, Tokens: client.AuthenticationV1().TokenReviews(), TokenTTL: time.Minute,
				Anonymous: c.anonymous, Now: time.Now,
			})
			u, err := a.Authenticate(request(c.cert, c.token))
			if (err == nil) != (c.want != "") || u.Name != c.want {
				t.Errorf("user %q, error %v; want user %q", u.Name, err, c.want)
			}
			if err != nil && len(u.Groups) > 0 {
				t.Errorf("a refused request has groups %v", u.Groups)
			}
		})
	}
}

func TestTokenAnswersExpire(t *testing.T) {
	asked, now := 0, time.Now()
	a := NewAuth(AuthConfig{
		Tokens: apiServer("", &asked).AuthenticationV1().TokenReviews(), TokenTTL: time.Minute, Now: func() time.Time { return now },
	})
	for _, step := range []struct {
		after time.Duration
		asked int
	}{{0, 1}, {59 * time.Second, 1}, {2 * time.Second, 2}} {
		now = now.Add(step.after)
		if _, err := a.Authenticate(request(nil, "good")); err != nil || asked != step.asked {
			t.Errorf("after %s: asked %d times (%v), want %d", step.after, asked, err, step.asked)
		}
	}
}

// fakePods is one pod whose container has run.
type fakePods struct{}

func (fakePods) Named(ns, name string) *corev1.Pod {
	if ns != "ns" || name != "pod" {
		return nil
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pod", UID: "u"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}, {Name: "late"}}},
	}
}
func (f fakePods) Pods() []*corev1.Pod { return []*corev1.Pod{f.Named("ns", "pod")} }

// noStreams has one running container, and runs commands that exit with the number of their words.
type noStreams struct{}

func (noStreams) Get(context.Context, types.UID) (runtime.Pod, error) {
	return runtime.Pod{Containers: []runtime.Container{{ID: "id", Name: "c", State: runtime.Running, LogPath: "/log"}}}, nil
}

func (noStreams) Exec(_ context.Context, _ string, x runtime.ExecConfig) (int, error) {
	_, err := fmt.Fprint(x.IO.Stdout, x.Command)
	return len(x.Command) - 1, err
}
func (noStreams) Attach(context.Context, string, runtime.IO) error { return nil }

// signalDone closes done when its one request has been served.
func signalDone(h http.Handler, done chan<- struct{}) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(done)
		h.ServeHTTP(w, r)
	})
}

func newServer(t *testing.T, allow string, streams Runtime) http.Handler {
	t.Helper()
	asked := 0
	client := apiServer(allow, &asked)
	s, err := New(Config{
		Pods: fakePods{}, Runtime: streams, Debugging: true, Profiling: true, Now: time.Now, Log: slog.New(slog.DiscardHandler),
		Logs: func(_ context.Context, path string, o runtime.LogOptions, w, _ io.Writer) error {
			_, err := io.WriteString(w, path+" "+o.Stream)
			return err
		},
		Auth:        NewAuth(AuthConfig{Tokens: client.AuthenticationV1().TokenReviews(), Now: time.Now}),
		Access:      NewAccess(AccessConfig{Node: "node", Reviews: client.AuthorizationV1().SubjectAccessReviews(), Now: time.Now}),
		Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, errors.New("none") },
	})
	if err != nil {
		t.Fatal(err)
	}
	return s.handler()
}

func TestAccess(t *testing.T) {
	for _, c := range []struct {
		allow, method, path, token string
		want                       int
		body                       string
	}{
		{"get pods", "GET", "/pods", "good", 200, `"name":"pod"`},
		// the older, wider permission suffices, too
		{"get proxy", "GET", "/pods", "good", 200, `"name":"pod"`},
		{"get metrics", "GET", "/pods", "good", 403, "subresource(s)=[pods proxy]"},
		{"get pods", "GET", "/pods", "bad", 401, "Unauthorized"},
		{"get pods", "GET", "/pods", "", 401, "Unauthorized"},
		{"get healthz", "GET", "/healthz", "good", 200, "ok"},
		{"get pods", "GET", "/containerLogs/ns/pod/c", "good", 403, "Forbidden"},
		{"get proxy", "GET", "/containerLogs/ns/pod/c", "good", 200, "/log "},
		{"get proxy", "GET", "/containerLogs/ns/pod/c?stream=Stderr", "good", 200, "/log stderr"},
		{"get proxy", "GET", "/containerLogs/ns/pod/none", "good", 404, `container "none" not found`},
		{"get proxy", "GET", "/containerLogs/ns/other/c", "good", 404, "does not exist"},
		{"get proxy", "GET", "/containerLogs/ns/pod/late", "good", 400, "waiting to start"},
		{"get proxy", "GET", "/containerLogs/ns/pod/c?previous=true", "good", 400, "previous terminated container"},
		{"get proxy", "GET", "/containerLogs/ns/pod/c?tailLines=x", "good", 400, "tailLines"},
		// words, no shell
		{"create proxy", "POST", "/run/ns/pod/c?cmd=a+b%3Bc", "good", 200, "[a b;c]command terminated with exit code 1"},
		{"create proxy", "GET", "/exec/ns/pod/c?command=a&output=1", "good", 400, "pgrade"},
		// a WebSocket starts with GET
		{"get proxy", "GET", "/exec/ns/pod/c?command=a&output=1", "good", 403, "verb=create"},
		{"get proxy", "GET", "/attach/ns/pod/c?output=1", "good", 403, "verb=create"},
		{"get proxy", "GET", "/portForward/ns/pod?port=80", "good", 403, "verb=create"},
		{"get proxy", "GET", "/exec/ns/pod/uid/c?command=a&output=1", "good", 403, "verb=create"},
		{"get proxy", "POST", "/run/ns/pod/c?cmd=a", "good", 403, "verb=create"},
		{"create proxy", "POST", "/run/ns/pod/late?cmd=a", "good", 500, "not running"},
		{"create proxy", "POST", "/run/ns/pod/other-uid/c?cmd=a", "good", 404, "does not exist"},
		// never served under another path's permission
		{"get metrics", "GET", "/metrics/../pods", "good", 307, ""},
		{"get metrics", "GET", "/debug/pprof/cmdline", "good", 403, "Forbidden"},
		{"get proxy", "GET", "/nothing", "good", 404, ""},
	} {
		t.Run(c.method+" "+c.path+" allowed "+c.allow+" as "+c.token, func(t *testing.T) {
			r := httptest.NewRequest(c.method, "https://node"+c.path, nil)
			if c.token != "" {
				r.Header.Set("Authorization", "Bearer "+c.token)
			}
			w := httptest.NewRecorder()
			newServer(t, c.allow, noStreams{}).ServeHTTP(w, r)
			if w.Code != c.want || !strings.Contains(w.Body.String(), c.body) {
				t.Errorf("answer %d %q, want %d with %q", w.Code, w.Body, c.want, c.body)
			}
		})
	}
}

func FuzzLogOptions(f *testing.F) {
	f.Add("follow=true&tailLines=3&sinceSeconds=1&limitBytes=10&stream=All&previous=false")
	f.Add("sinceTime=2026-01-02T15:04:05Z&timestamps=1")
	f.Fuzz(func(t *testing.T, query string) {
		o, _, err := logOptions(&http.Request{URL: &url.URL{RawQuery: query}}, time.Unix(1000, 0))
		if err == nil && (o.Tail != nil && *o.Tail < 0 || o.LimitBytes != nil && *o.LimitBytes < 1) {
			t.Errorf("%q was taken for %+v", query, o)
		}
	})
}
