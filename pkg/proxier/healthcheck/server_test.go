package healthcheck

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/service"
)

// ports remembers the addresses that stand for ports.
type ports struct {
	mu sync.Mutex
	at map[uint16]string
}

func (p *ports) listen(ctx context.Context, n uint16) (net.Listener, error) {
	var c net.ListenConfig
	l, err := c.Listen(ctx, "tcp", "127.0.0.1:0")
	if err == nil {
		p.mu.Lock()
		p.at[n] = l.Addr().String()
		p.mu.Unlock()
	}
	return l, err
}

func TestAnswers(t *testing.T) {
	p := &ports{at: map[uint16]string{}}
	healthy := true
	s, err := New(Config{Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Healthy: func() bool { return healthy }, Listen: p.listen})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()
	with := func(local int) *service.Snapshot {
		return &service.Snapshot{Family: corev1.IPv4Protocol, Services: []*service.Service{{Namespace: "ns", Name: "a", HealthCheckNodePort: 32000, LocalReady: local}}}
	}
	for _, c := range []struct {
		local   int
		healthy bool
		code    int
		body    string
	}{
		{2, true, 200, `{"service":{"namespace":"ns","name":"a"},"localEndpoints":2,"serviceProxyHealthy":true}`},
		{0, true, 503, `"localEndpoints":0`},
		{1, false, 503, `"serviceProxyHealthy":false`},
	} {
		healthy = c.healthy
		if err := s.Synced(ctx, nil, with(c.local)); err != nil {
			t.Fatal(err)
		}
		r, err := http.Get("http://" + p.at[32000])
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(r.Body)
		r.Body.Close()
		if r.StatusCode != c.code || !strings.Contains(string(text), c.body) {
			t.Errorf("local %d: %d %s", c.local, r.StatusCode, text)
		}
	}
	if err := s.Synced(ctx, nil, &service.Snapshot{Family: corev1.IPv4Protocol}); err != nil {
		t.Fatal(err)
	}
	if _, err := net.Dial("tcp", p.at[32000]); err == nil {
		t.Error("the port of a Service that is gone is still open")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
