package hook_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/nodeagent/nodeagent/pkg/podsync/hook"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// shell answers commands by their name.
type shell struct{ ran []string }

func (s *shell) Exec(_ context.Context, containerID string, x runtime.ExecConfig) (int, error) {
	s.ran = append(s.ran, containerID+" "+strings.Join(x.Command, " "))
	switch x.Command[0] {
	case "fail":
		fmt.Fprintln(x.IO.Stderr, "no luck")
		return 3, nil
	case "broken":
		return 0, errors.New("no such file")
	case "background":
		return 0, fmt.Errorf("%w: deadline", runtime.ErrOutputCut)
	}
	return 0, nil
}

func runner(t *testing.T, s *shell, m *hook.Metrics) *hook.Runner {
	t.Helper()
	r, err := hook.New(hook.Config{Exec: s, Metrics: m})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func post(h corev1.LifecycleHandler) *corev1.Container {
	return &corev1.Container{Name: "app", Lifecycle: &corev1.Lifecycle{PostStart: &h}}
}

func TestCommand(t *testing.T) {
	s := &shell{}
	r := runner(t, s, nil)
	for name, want := range map[string]string{"ok": "", "fail": `it exited with 3: no luck`, "broken": "no such file", "background": ""} {
		err := r.Run(t.Context(), post(corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{name}}}), "c1", "", podspec.PostStart)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	before := len(s.ran)
	c := post(corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"ok"}}})
	if err := r.Run(t.Context(), c, "c1", "", podspec.PreStop); err != nil || len(s.ran) != before {
		t.Errorf("a hook of the other kind: %v, ran %v", err, s.ran[before:])
	}
}

func TestRequest(t *testing.T) {
	var seen []*http.Request
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r)
		if r.URL.Path == "/bad" {
			w.WriteHeader(http.StatusTeapot)
		}
	})
	server := httptest.NewServer(handler)
	defer server.Close()
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	host, text, err := net.SplitHostPort(u.Host)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	metrics, err := hook.NewMetrics(registry)
	if err != nil {
		t.Fatal(err)
	}
	r := runner(t, &shell{}, metrics)
	get := func(path string, scheme corev1.URIScheme) error {
		c := post(corev1.LifecycleHandler{HTTPGet: &corev1.HTTPGetAction{
			Path: path, Port: intstr.FromString("web"), Scheme: scheme,
			HTTPHeaders: []corev1.HTTPHeader{{Name: "Authorization", Value: "Bearer x"}, {Name: "X-A", Value: "1"}},
		}})
		c.Ports = []corev1.ContainerPort{{Name: "web", ContainerPort: int32(port)}}
		return r.Run(t.Context(), c, "c1", host, podspec.PostStart)
	}
	if err := get("/a?b=c", corev1.URISchemeHTTP); err != nil || len(seen) != 1 || seen[0].Header.Get("X-A") != "1" || seen[0].URL.RawQuery != "b=c" {
		t.Errorf("a request: %v, %v", err, seen)
	}
	if err := get("/bad", corev1.URISchemeHTTP); err == nil || !strings.Contains(err.Error(), "418") {
		t.Errorf("an answer that is an error: %v", err)
	}
	seen = nil
	if err := get("/s", corev1.URISchemeHTTPS); err != nil || len(seen) != 1 {
		t.Fatalf("https to a plain server: %v, %d requests", err, len(seen))
	}
	if families, err := registry.Gather(); err != nil || len(families) != 1 || families[0].GetMetric()[0].GetCounter().GetValue() != 1 {
		t.Errorf("the metric of fallbacks: %v, %v", families, err)
	}
	if seen[0].Header.Get("Authorization") != "" || seen[0].Header.Get("X-A") != "1" {
		t.Errorf("headers of the fallback: %v", seen[0].Header)
	}
}

func TestSleepIsCutShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := runner(t, &shell{}, nil)
		c := &corev1.Container{Lifecycle: &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 60}}}}
		begin := time.Now()
		if err := r.Run(t.Context(), c, "c1", "", podspec.PreStop); err != nil || time.Since(begin) != time.Minute {
			t.Errorf("a whole sleep: %v after %v", err, time.Since(begin))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := r.Run(ctx, c, "c1", "", podspec.PreStop); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a sleep cut short: %v", err)
		}
	})
}
