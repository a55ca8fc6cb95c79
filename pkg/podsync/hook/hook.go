// Package hook is EDGE: it runs the lifecycle hooks of containers, postStart and preStop: a command
// in the container, an HTTP request to it, or a sleep. The planner decides when a hook runs and
// what its failure means; the context bounds how long it takes.
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

	"github.com/nodeagent/nodeagent/pkg/podsync/lifecyclehandler"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/sleep"
)

// userAgent is the User-Agent of hooks' requests, as in kubelet.
const userAgent = "kube-lifecycle/1.36"

// defaultPort is the port of a hook that names none, as in kubelet.
const defaultPort = 80

// Execer runs a process in a container; see runtime.Streams.
type Execer interface {
	Exec(ctx context.Context, containerID string, x runtime.ExecConfig) (exitCode int, err error)
}

// Config of a Runner.
type Config struct {
	Exec Execer // required
	// Metrics counts HTTPS hooks that succeeded in plain HTTP; nil: nothing is counted.
	Metrics *Metrics
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

// Run runs the container's hook of that kind; it does nothing when there is none. HTTP hooks go to
// host unless they name another. The error is the hook's own failure.
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
		d := time.Duration(h.Sleep.Seconds) * time.Second
		if err := sleep.For(ctx, d); err != nil { // the pod's grace period is over
			return fmt.Errorf("sleeping %v in a hook: %w", d, err)
		}
		return nil
	}
	return nil // the API server accepts tcpSocket in hooks, and kubelet ignores it
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

// command runs a command in the container. The error of one that fails has its output.
func (r *Runner) command(ctx context.Context, e *corev1.ExecAction, containerID string) error {
	output := &lifecyclehandler.Output{}
	code, err := r.config.Exec.Exec(ctx, containerID, runtime.ExecConfig{
		Command: e.Command, IO: runtime.IO{Stdout: output, Stderr: output},
	})
	switch {
	case err != nil && !errors.Is(err, runtime.ErrOutputCut): // with output cut, the exit code is known
		return fmt.Errorf("running the hook's command %q: %w", e.Command, err)
	case code != 0:
		return fmt.Errorf("running the hook's command %q: it exited with %d: %s", e.Command, code, strings.TrimSpace(output.String()))
	}
	return nil
}

// request sends an HTTP GET; any status below 400 is success. When an HTTPS hook meets a plain HTTP
// server, the request is repeated in plain HTTP without credentials, for hooks written before
// kubelet honoured the scheme (feature ConsistentHTTPGetHandlers).
func (r *Runner) request(ctx context.Context, c *corev1.Container, h *corev1.HTTPGetAction, host string) error {
	port, err := lifecyclehandler.Port(h.Port, c, defaultPort)
	if err != nil {
		return fmt.Errorf("running the hook's request: %w", err)
	}
	u, header := lifecyclehandler.URL(h, host, port), lifecyclehandler.Header(h.HTTPHeaders, userAgent)
	err = r.get(ctx, u, header)
	if u.Scheme == "https" && isPlainHTTP(err) {
		u.Scheme = "http"
		header.Del("Authorization")
		if err = r.get(ctx, u, header); err == nil {
			r.config.Metrics.fallback()
		}
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
	defer func() { _ = answer.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, lifecyclehandler.MaxOutput)) // the status decides
	if answer.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("the response is %s", answer.Status)
	}
	return nil
}

// isPlainHTTP reports whether a TLS client met a plain HTTP server.
func isPlainHTTP(err error) bool {
	return err != nil && strings.Contains(err.Error(), "server gave HTTP response to HTTPS client")
}
