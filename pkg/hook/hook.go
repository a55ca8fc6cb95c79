// Package hook is EDGE: it runs the lifecycle hooks of containers, postStart and preStop: a command in the container, an HTTP
// request to it, or a sleep. It decides neither when nor what follows; the context bounds how long.
package hook

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/nodeagent/nodeagent/pkg/podsync/podplan"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// userAgent is what hooks call themselves.
const userAgent = "kube-lifecycle/1.36"

// maxOutput bounds what is kept of a command's output or read of an answer, in bytes.
const maxOutput = 10 << 10

// Execer runs a process in a container; see runtime.Streams.
type Execer interface {
	Exec(ctx context.Context, containerID string, x runtime.ExecConfig) (exitCode int, err error)
}

// Config of a Runner. Every field is required.
type Config struct {
	Exec Execer
	// OnFallback is told of every HTTPS hook that was answered in plain HTTP and was asked again so, for the metric
	// kubelet_lifecycle_handler_http_fallbacks_total; nil: nobody is.
	OnFallback func()
}

// Runner runs hooks.
type Runner struct {
	config Config
	client *http.Client
}

// New makes a Runner.
func New(c Config) (*Runner, error) {
	if c.Exec == nil {
		return nil, errors.New("making the hook runner: Exec is required")
	}
	return &Runner{config: c, client: &http.Client{Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // the API has no field for a CA; as in kubelet
		DisableKeepAlives: true,
	}}}, nil
}

// Run runs the container's hook of that kind, and nothing if it has none. host is where HTTP hooks go unless they name a
// host of their own.
func (r *Runner) Run(ctx context.Context, c *corev1.Container, containerID, host string, kind podplan.HookKind) error {
	h := handler(c, kind)
	switch {
	case h == nil:
		return nil
	case h.Exec != nil:
		return r.command(ctx, h.Exec, containerID)
	case h.HTTPGet != nil:
		return r.request(ctx, c, h.HTTPGet, host)
	case h.Sleep != nil:
		return rest(ctx, time.Duration(h.Sleep.Seconds)*time.Second)
	}
	return nil // as the API server, which lets a handler without an action through as tcpSocket
}

func handler(c *corev1.Container, kind podplan.HookKind) *corev1.LifecycleHandler {
	switch {
	case c.Lifecycle == nil:
		return nil
	case kind == podplan.PostStart:
		return c.Lifecycle.PostStart
	}
	return c.Lifecycle.PreStop
}

// command runs a command; its output is part of the error when it fails.
func (r *Runner) command(ctx context.Context, e *corev1.ExecAction, containerID string) error {
	output := &bounded{}
	code, err := r.config.Exec.Exec(ctx, containerID, runtime.ExecConfig{
		Command: e.Command, IO: runtime.IO{Stdout: output, Stderr: output},
	})
	switch {
	case err != nil:
		return fmt.Errorf("running the hook's command %q: %w", e.Command, err)
	case code != 0:
		return fmt.Errorf("running the hook's command %q: it exited with %d: %s", e.Command, code, strings.TrimSpace(output.String()))
	}
	return nil
}

// bounded keeps the beginning of what is written. The process's two streams may be copied side by side.
type bounded struct {
	lock sync.Mutex
	text bytes.Buffer
}

// Write keeps what fits, and takes it all.
func (b *bounded) Write(p []byte) (int, error) {
	b.lock.Lock()
	defer b.lock.Unlock()
	if room := maxOutput - b.text.Len(); room > 0 {
		b.text.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// String is what was kept.
func (b *bounded) String() string {
	b.lock.Lock()
	defer b.lock.Unlock()
	return b.text.String()
}

// request asks for a page and takes any answer that is no error. An HTTPS hook that meets a plain HTTP server is asked again
// in plain HTTP, without credentials: KEP-2625 (ConsistentHTTPGetHandlers) promises that to hooks from before it.
func (r *Runner) request(ctx context.Context, c *corev1.Container, h *corev1.HTTPGetAction, host string) error {
	port, err := portNumber(h.Port, c)
	if err != nil {
		return err
	}
	if h.Host != "" {
		host = h.Host
	}
	u, err := url.Parse(h.Path)
	if err != nil {
		u = &url.URL{Path: h.Path}
	}
	u.Scheme, u.Host = "http", net.JoinHostPort(host, strconv.Itoa(port))
	if h.Scheme == corev1.URISchemeHTTPS {
		u.Scheme = "https"
	}
	header := headers(h.HTTPHeaders)
	err = r.get(ctx, u, header)
	if u.Scheme == "https" && isPlainHTTP(err) {
		if r.config.OnFallback != nil {
			r.config.OnFallback()
		}
		u.Scheme = "http"
		header.Del("Authorization")
		err = r.get(ctx, u, header)
	}
	if err != nil {
		return fmt.Errorf("running the hook's request: %w", err)
	}
	return nil
}

func (r *Runner) get(ctx context.Context, u *url.URL, header http.Header) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	request.Header, request.Host = header, header.Get("Host")
	answer, err := r.client.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()                         // it was read as far as it is wanted
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, maxOutput)) // only politeness
	if answer.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("the answer is %s", answer.Status)
	}
	return nil
}

// isPlainHTTP says that a TLS client met an HTTP server.
func isPlainHTTP(err error) bool {
	return err != nil && strings.Contains(err.Error(), "server gave HTTP response to HTTPS client")
}

func headers(given []corev1.HTTPHeader) http.Header {
	h := make(http.Header)
	for _, pair := range given {
		h.Add(pair.Name, pair.Value)
	}
	if _, set := h["User-Agent"]; !set {
		h.Set("User-Agent", userAgent)
	}
	if _, set := h["Accept"]; !set {
		h.Set("Accept", "*/*")
	} else if h.Get("Accept") == "" {
		h.Del("Accept")
	}
	return h
}

// portNumber resolves a port by number, or by its name in the container.
func portNumber(port intstr.IntOrString, c *corev1.Container) (int, error) {
	number := port.IntValue()
	if port.Type == intstr.String {
		for _, p := range c.Ports {
			if p.Name == port.StrVal {
				number = int(p.ContainerPort)
			}
		}
	}
	if number == 0 && port.Type == intstr.Int || port.Type == intstr.String && port.StrVal == "" {
		number = 80 // kubelet's default for hooks
	}
	if number <= 0 || number > 65535 {
		return 0, fmt.Errorf("resolving the hook's port %q: container %q has no such port", port.String(), c.Name)
	}
	return number, nil
}

// rest sleeps; being cut short by the end of the pod's grace is how a long sleep ends.
func rest(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return fmt.Errorf("sleeping %v in a hook: %w", d, ctx.Err())
	case <-timer.C:
		return nil
	}
}
