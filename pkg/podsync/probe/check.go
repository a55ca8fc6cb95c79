package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/lifecyclehandler"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// userAgent is the User-Agent of checks, as in kubelet; people filter access logs by it.
const userAgent = "kube-probe/1.36"

// checker makes single checks.
type checker struct {
	exec      Execer
	transport *http.Transport
}

func newChecker(exec Execer) checker {
	return checker{
		exec: exec,
		transport: &http.Transport{
			// A check asks whether the program answers, not who it is. It does not use the node's
			// proxy.
			TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // see above
			DisableKeepAlives: true, DisableCompression: true,
			DialContext: dialer().DialContext,
		},
	}
}

// dialer closes connections within a second, so that many checks leave few sockets in TIME_WAIT.
func dialer() *net.Dialer {
	return &net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		outer := c.Control(func(fd uintptr) {
			err = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 1})
		})
		return errors.Join(outer, err)
	}}
}

// check makes one check of a worker.
func (c checker) check(ctx context.Context, w *worker) checked {
	timeout := seconds(w.spec.TimeoutSeconds, 1)
	if w.spec.Exec != nil {
		return c.command(ctx, w, timeout)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	switch {
	case w.spec.HTTPGet != nil:
		return c.httpGet(ctx, w, w.spec.HTTPGet)
	case w.spec.TCPSocket != nil:
		return tcpConnect(ctx, w, w.spec.TCPSocket)
	case w.spec.GRPC != nil:
		return grpcHealth(ctx, w, w.spec.GRPC)
	}
	return checked{text: "the probe has no handler"}
}

// command runs a command in the container. The exit code counts as soon as it is known, even if
// processes of the command still run. A probe has one process at a time: while a process cannot be
// killed, further checks of this probe time out, and no other probe is affected.
func (c checker) command(ctx context.Context, w *worker, timeout time.Duration) checked {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	timedOut := checked{result: podspec.ProbeFailure, text: fmt.Sprintf("command timed out: %q timed out after %v", w.spec.Exec.Command, timeout)}
	select {
	case w.process <- struct{}{}:
	case <-ctx.Done():
		timedOut.text += ": the process of an earlier check cannot be killed"
		return timedOut
	}
	output := &lifecyclehandler.Output{}
	code, err := c.exec.Exec(ctx, w.id, runtime.ExecConfig{
		Command: w.spec.Exec.Command, IO: runtime.IO{Stdout: output, Stderr: output}, Gone: func() { <-w.process },
	})
	switch {
	case err != nil && !errors.Is(err, runtime.ErrOutputCut):
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return timedOut
		}
		return checked{text: err.Error()}
	case code != 0:
		return checked{result: podspec.ProbeFailure, text: output.String()}
	}
	return checked{result: podspec.ProbeSuccess, text: output.String()}
}

// httpGet sends an HTTP GET. A status from 200 to 399 is success. A redirect to another host is not
// followed; it is a success with a warning.
func (c checker) httpGet(ctx context.Context, w *worker, h *corev1.HTTPGetAction) checked {
	request, err := httpRequest(ctx, w, h)
	if err != nil {
		return checked{text: err.Error()}
	}
	client := &http.Client{Transport: c.transport, CheckRedirect: func(next *http.Request, via []*http.Request) error {
		if next.URL.Hostname() != via[0].URL.Hostname() {
			return http.ErrUseLastResponse
		}
		if len(via) >= 10 {
			return errors.New("stopped after 10 redirects")
		}
		return nil
	}}
	answer, err := client.Do(request)
	if err != nil {
		return checked{result: podspec.ProbeFailure, text: err.Error()}
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(answer.Body, lifecyclehandler.MaxOutput))
	switch {
	case err != nil:
		return checked{result: podspec.ProbeFailure, text: err.Error()}
	case answer.StatusCode >= 300 && answer.StatusCode < 400:
		return checked{result: podspec.ProbeSuccess, warned: true, text: "Probe terminated redirects, Response body: " + string(body)}
	case answer.StatusCode < 200 || answer.StatusCode >= 400:
		return checked{result: podspec.ProbeFailure, text: fmt.Sprintf("HTTP probe failed with statuscode: %d", answer.StatusCode)}
	}
	return checked{result: podspec.ProbeSuccess, text: string(body)}
}

// httpRequest makes the request of an HTTP check.
func httpRequest(ctx context.Context, w *worker, h *corev1.HTTPGetAction) (*http.Request, error) {
	port, err := lifecyclehandler.Port(h.Port, w.container, 0)
	if err != nil {
		return nil, fmt.Errorf("making the probe's request: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, lifecyclehandler.URL(h, w.address, port).String(), nil)
	if err != nil {
		return nil, fmt.Errorf("making the probe's request: %w", err)
	}
	request.Header = lifecyclehandler.Header(h.HTTPHeaders, userAgent)
	request.Host = request.Header.Get("Host")
	return request, nil
}

func tcpConnect(ctx context.Context, w *worker, t *corev1.TCPSocketAction) checked {
	port, err := lifecyclehandler.Port(t.Port, w.container, 0)
	if err != nil {
		return checked{text: err.Error()}
	}
	host := w.address
	if t.Host != "" {
		host = t.Host
	}
	conn, err := dialer().DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return checked{result: podspec.ProbeFailure, text: err.Error()}
	}
	_ = conn.Close()
	return checked{result: podspec.ProbeSuccess}
}

// grpcHealth calls the standard health service
// (https://github.com/grpc/grpc/blob/master/doc/health-checking.md).
func grpcHealth(ctx context.Context, w *worker, g *corev1.GRPCAction) checked {
	conn, err := grpc.NewClient("passthrough:///"+net.JoinHostPort(w.address, strconv.Itoa(int(g.Port))),
		grpc.WithUserAgent(userAgent), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return dialer().DialContext(ctx, "tcp", address)
		}))
	if err != nil {
		return checked{result: podspec.ProbeFailure, text: fmt.Sprintf("error: failed to connect service at %q: %v", w.address, err)}
	}
	defer func() { _ = conn.Close() }()
	service := ""
	if g.Service != nil {
		service = *g.Service
	}
	ctx = metadata.NewOutgoingContext(ctx, make(metadata.MD))
	answer, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{Service: service})
	switch code := status.Code(err); {
	case code == codes.Unimplemented:
		return checked{result: podspec.ProbeFailure, text: "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): " + status.Convert(err).Message()}
	case code == codes.DeadlineExceeded:
		return checked{result: podspec.ProbeFailure, text: fmt.Sprintf("timeout: health rpc did not complete within %v", seconds(w.spec.TimeoutSeconds, 1))}
	case err != nil:
		return checked{result: podspec.ProbeFailure, text: fmt.Sprintf("error: health rpc probe failed: %v", err)}
	case answer.GetStatus() != healthv1.HealthCheckResponse_SERVING:
		return checked{result: podspec.ProbeFailure, text: fmt.Sprintf("service unhealthy (responded with %q)", answer.GetStatus())}
	}
	return checked{result: podspec.ProbeSuccess, text: "service healthy"}
}
