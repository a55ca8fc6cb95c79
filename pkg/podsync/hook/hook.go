// Package hook is EDGE: it runs the lifecycle hooks of containers, postStart and preStop: a command
// in the container, an HTTP request to it, or a sleep. It decides neither when nor what follows;
// the context bounds how long.
package hook

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/handler"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// userAgent is what hooks call themselves.
const userAgent = "kube-lifecycle/1.36"

// defaultPort is that of a hook that names none; as in kubelet.
const defaultPort = 80

// Execer runs a process in a container; see runtime.Streams.
type Execer interface {
	Exec(ctx context.Context, containerID string, x runtime.ExecConfig) (exitCode int, err error)
}

// Config of a Runner. Every field is required.
type Config struct {
	Exec Execer
	// OnFallback is told of every HTTPS hook that was answered in plain HTTP and was asked again
	// so, for the metric kubelet_lifecycle_handler_http_fallbacks_total; nil: nobody is.
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

// Run runs the container's hook of that kind, and nothing if it has none. host is where HTTP hooks
// go unless they name a host of their own.
func (r *Runner) Run(ctx context.Context, c *corev1.Container, containerID, host string, kind podspec.HookKind) error {
	h := lifecycle(c, kind)
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

func lifecycle(c *corev1.Container, kind podspec.HookKind) *corev1.LifecycleHandler {
	switch {
	case c.Lifecycle == nil:
		return nil
	case kind == podspec.PostStart:
		return c.Lifecycle.PostStart
	}
	return c.Lifecycle.PreStop
}

// command runs a command; its output is part of the error when it fails.
func (r *Runner) command(ctx context.Context, e *corev1.ExecAction, containerID string) error {
	output := &handler.Output{}
	code, err := r.config.Exec.Exec(ctx, containerID, runtime.ExecConfig{
		Command: e.Command, IO: runtime.IO{Stdout: output, Stderr: output},
	})
	switch {
	case err != nil && !errors.Is(err, runtime.ErrOutputCut): // the exit code counts
		return fmt.Errorf("running the hook's command %q: %w", e.Command, err)
	case code != 0:
		return fmt.Errorf("running the hook's command %q: it exited with %d: %s", e.Command, code, strings.TrimSpace(output.String()))
	}
	return nil
}

// request asks for a page and takes any answer that is no error. An HTTPS hook that meets a plain
// HTTP server is asked again in plain HTTP, without credentials: KEP-2625
// (ConsistentHTTPGetHandlers) promises that to hooks from before it.
func (r *Runner) request(ctx context.Context, c *corev1.Container, h *corev1.HTTPGetAction, host string) error {
	port, err := handler.Port(h.Port, c, defaultPort)
	if err != nil {
		return fmt.Errorf("running the hook's request: %w", err)
	}
	u, header := handler.URL(h, host, port), handler.Header(h.HTTPHeaders, userAgent)
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
	// it was read as far as it is wanted
	defer func() { _ = answer.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, handler.MaxOutput)) // only politeness
	if answer.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("the answer is %s", answer.Status)
	}
	return nil
}

// isPlainHTTP says that a TLS client met an HTTP server.
func isPlainHTTP(err error) bool {
	return err != nil && strings.Contains(err.Error(), "server gave HTTP response to HTTPS client")
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
