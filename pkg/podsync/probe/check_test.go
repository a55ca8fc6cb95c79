package probe

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/nodeagent/nodeagent/pkg/podsync/lifecyclehandler"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
)

func port(t *testing.T, address string) int32 {
	t.Helper()
	_, text, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return int32(n)
}

// check makes one check against a local address.
func check(t *testing.T, h corev1.ProbeHandler, ports ...corev1.ContainerPort) checked {
	t.Helper()
	return newChecker(nil).check(t.Context(), &worker{
		spec: &corev1.Probe{ProbeHandler: h, TimeoutSeconds: 5}, address: "127.0.0.1",
		container: &corev1.Container{Name: "app", Ports: ports},
	})
}

func TestHTTPGet(t *testing.T) {
	var seen *http.Request
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, r *http.Request) { seen = r; fmt.Fprint(w, strings.Repeat("x", 20<<10)) })
	mux.HandleFunc("/bad", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500); fmt.Fprint(w, "secret") })
	mux.HandleFunc("/near", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/ok", http.StatusFound) })
	mux.HandleFunc("/far", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://elsewhere.invalid/", http.StatusFound)
	})
	mux.HandleFunc("/loop", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/loop", http.StatusFound) })
	for _, scheme := range []corev1.URIScheme{corev1.URISchemeHTTP, corev1.URISchemeHTTPS} {
		server := httptest.NewServer(mux)
		if scheme == corev1.URISchemeHTTPS {
			server.Close()
			server = httptest.NewTLSServer(mux)
		}
		defer server.Close()
		u, err := url.Parse(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		get := func(path string, headers ...corev1.HTTPHeader) checked {
			return check(t, corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{
				Path: path, Port: intstr.FromInt32(port(t, u.Host)), Scheme: scheme, HTTPHeaders: headers,
			}})
		}
		if o := get("/ok?a=b", corev1.HTTPHeader{Name: "Host", Value: "app.example"}, corev1.HTTPHeader{Name: "X-A", Value: "1"}); o.result != podspec.ProbeSuccess || o.warned || len(o.text) != lifecyclehandler.MaxOutput {
			t.Errorf("%s ok: %v, %d bytes", scheme, o.result, len(o.text))
		}
		if seen.Host != "app.example" || seen.Header.Get("X-A") != "1" || seen.UserAgent() != "kube-probe/1.36" || seen.URL.RawQuery != "a=b" || seen.Header.Get("Accept") != "*/*" {
			t.Errorf("the request: host %q, query %q, %v", seen.Host, seen.URL.RawQuery, seen.Header)
		}
		get("/ok", corev1.HTTPHeader{Name: "User-Agent", Value: "mine"}, corev1.HTTPHeader{Name: "Accept", Value: ""})
		if _, set := seen.Header["Accept"]; seen.UserAgent() != "mine" || set {
			t.Errorf("the request with its own headers: %v", seen.Header)
		}
		if o := get("/bad"); o.result != podspec.ProbeFailure || o.text != "HTTP probe failed with statuscode: 500" {
			t.Errorf("%s bad: %+v", scheme, o)
		}
		if o := get("/near"); o.result != podspec.ProbeSuccess || o.warned {
			t.Errorf("%s redirect on the same host: %+v", scheme, o)
		}
		if o := get("/far"); o.result != podspec.ProbeSuccess || !o.warned || !strings.Contains(o.text, "Probe terminated redirects") {
			t.Errorf("%s redirect to another host: %+v", scheme, o)
		}
		if o := get("/loop"); o.result != podspec.ProbeFailure {
			t.Errorf("%s endless redirect: %+v", scheme, o)
		}
	}
}

func TestPortByName(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	h := corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromString("web")}}
	if o := check(t, h, corev1.ContainerPort{Name: "web", ContainerPort: port(t, u.Host)}); o.result != podspec.ProbeSuccess {
		t.Errorf("by name: %+v", o)
	}
	if o := check(t, h); o.result != podspec.NotProbed || !strings.Contains(o.text, "no such port") {
		t.Errorf("by a name that is not there: %+v", o)
	}
}

func TestTCPConnect(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(port(t, listener.Addr().String()))}}
	if o := check(t, h); o.result != podspec.ProbeSuccess {
		t.Errorf("open port: %+v", o)
	}
	listener.Close()
	if o := check(t, h); o.result != podspec.ProbeFailure || !strings.Contains(o.text, "connection refused") {
		t.Errorf("closed port: %+v", o)
	}
}

func TestGRPCHealth(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, health := grpc.NewServer(), health.NewServer()
	healthv1.RegisterHealthServer(server, health)
	go server.Serve(listener)
	defer server.Stop()
	health.SetServingStatus("down", healthv1.HealthCheckResponse_NOT_SERVING)
	ask := func(service string) checked {
		return check(t, corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: port(t, listener.Addr().String()), Service: &service}})
	}
	if o := ask(""); o.result != podspec.ProbeSuccess {
		t.Errorf("healthy: %+v", o)
	}
	if o := ask("down"); o.result != podspec.ProbeFailure || !strings.Contains(o.text, "NOT_SERVING") {
		t.Errorf("unhealthy: %+v", o)
	}
	if o := ask("unknown"); o.result != podspec.ProbeFailure {
		t.Errorf("unknown service: %+v", o)
	}
	server.Stop()
	if o := ask(""); o.result != podspec.ProbeFailure {
		t.Errorf("no server: %+v", o)
	}
}
