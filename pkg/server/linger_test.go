package server

import (
	"context"
	"crypto/tls"
	"io"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/httpstream/spdy" //nolint:staticcheck // what the executor's constructor takes
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// bigOutput are streams of a process that writes much and ends at once with code 0.
type bigOutput struct {
	noStreams
	size    int64
	written chan struct{} // closed when all was handed over
}

func (b *bigOutput) write(w io.Writer) error {
	defer close(b.written)
	_, err := io.Copy(w, io.LimitReader(zeros{}, b.size))
	return err
}

func (b *bigOutput) Exec(_ context.Context, _ string, x runtime.ExecConfig) (int, error) {
	return 0, b.write(x.IO.Stdout)
}

func (b *bigOutput) Attach(_ context.Context, _ string, s runtime.IO) error { return b.write(s.Stdout) }

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// pausingWriter stops near the end of the output until the server is done and the client's pings
// have met it.
type pausingWriter struct {
	stop, taken int64
	written     <-chan struct{}
	pings       time.Duration
}

func (p *pausingWriter) Write(b []byte) (int, error) {
	if p.taken < p.stop && p.taken+int64(len(b)) >= p.stop {
		<-p.written
		time.Sleep(p.pings)
	}
	p.taken += int64(len(b))
	return len(b), nil
}

func TestASlowClientGetsTheWholeOutput(t *testing.T) {
	const size = 16 << 20
	clients := map[string]struct {
		pings    time.Duration
		executor func(u *url.URL) (remotecommand.Executor, error)
	}{
		"SPDY": {500 * time.Millisecond, func(u *url.URL) (remotecommand.Executor, error) {
			rt, err := spdy.NewRoundTripperWithConfig(spdy.RoundTripperConfig{
				TLS: &tls.Config{InsecureSkipVerify: true}, PingPeriod: 20 * time.Millisecond,
			})
			if err != nil {
				return nil, err
			}
			return remotecommand.NewSPDYExecutorForTransports(transport.NewBearerAuthRoundTripper("good", rt), rt, "POST", u)
		}},
		// it pings every 5 seconds
		"WebSocket": {6 * time.Second, func(u *url.URL) (remotecommand.Executor, error) {
			c := &rest.Config{BearerToken: "good", TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
			return remotecommand.NewWebSocketExecutorForProtocols(c, "GET", u.String(), "v4.channel.k8s.io")
		}},
	}
	for name, client := range clients {
		for _, path := range []string{"/exec/ns/pod/c?command=x&output=1", "/attach/ns/pod/c?output=1"} {
			t.Run(name+path, func(t *testing.T) {
				t.Parallel()
				streams := &bigOutput{noStreams{}, size, make(chan struct{})}
				done := make(chan struct{})
				handler := newServer(t, "create proxy", streams)
				s := httptest.NewTLSServer(signalDone(handler, done))
				defer s.Close()
				u, err := url.Parse(s.URL + path)
				if err != nil {
					t.Fatal(err)
				}
				e, err := client.executor(u)
				if err != nil {
					t.Fatal(err)
				}
				out := &pausingWriter{stop: size - 1<<20, written: streams.written, pings: client.pings}
				if err := e.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: out}); err != nil || out.taken != size {
					t.Errorf("the client got %d of %d bytes, %v", out.taken, size, err)
				}
				<-done // the connection ends with the client's
			})
		}
	}
}
