package healthcheck

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// machine is a machine to listen on; another program has the addresses in busy.
type machine struct {
	mu     sync.Mutex
	open   map[string]*pipe
	busy   map[string]bool
	failed []string
}

// pipe is a listener whose clients are in the same process.
type pipe struct {
	m      *machine
	at     string
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipe) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipe) Close() error {
	p.once.Do(func() {
		close(p.closed)
		p.m.mu.Lock()
		defer p.m.mu.Unlock()
		delete(p.m.open, p.at)
	})
	return nil
}

func (p *pipe) Addr() net.Addr { return &net.TCPAddr{} }

func (m *machine) listen(_ context.Context, network, address string) (net.Listener, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := network + " " + address
	if m.busy[at] || m.open[at] != nil {
		return nil, syscall.EADDRINUSE
	}
	p := &pipe{m: m, at: at, conns: make(chan net.Conn), closed: make(chan struct{})}
	m.open[at] = p
	return p, nil
}

func (m *machine) listening() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return strings.Join(slices.Sorted(maps.Keys(m.open)), ", ")
}

func (m *machine) get(t *testing.T, at string) (code int, body string, weight string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
		m.mu.Lock()
		p := m.open[at]
		m.mu.Unlock()
		if p == nil {
			return nil, syscall.ECONNREFUSED
		}
		here, there := net.Pipe()
		p.conns <- there
		return here, nil
	}}}
	r, err := client.Get("http://node/")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(text), r.Header.Get("X-Load-Balancing-Endpoint-Weight")
}

// begin runs a server on a machine in a synctest bubble.
func begin(t *testing.T, m *machine, healthy func() bool) *Server {
	t.Helper()
	m.open = map[string]*pipe{}
	s, err := New(Config{
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Healthy: healthy, Listen: m.listen,
		Failed: func(name types.NamespacedName, port uint16, err error) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.failed = append(m.failed, fmt.Sprint(name, " ", port, " ", err))
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if open := m.listening(); open != "" {
			t.Errorf("after Run there listens %s", open)
		}
	})
	return s
}

func always() bool { return true }

func snapshotOf(f corev1.IPFamily, ready int, ports ...uint16) *snapshot.Snapshot {
	out := &snapshot.Snapshot{Family: f, NodePorts: snapshot.Places{All: true}, Node: snapshot.Node{Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")}}}
	for _, n := range ports {
		out.Services = append(out.Services, &snapshot.Service{Namespace: "ns", Name: fmt.Sprint("s", n), HealthCheckNodePort: n, LocalReady: ready})
	}
	return out
}

func (s *Server) sync(t *testing.T, snaps ...*snapshot.Snapshot) {
	t.Helper()
	for _, now := range snaps {
		if err := s.Synced(t.Context(), nil, now); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, healthy := &machine{}, true
		s := begin(t, m, func() bool { return healthy })
		for _, c := range []struct {
			local   int
			healthy bool
			code    int
			body    string
			weight  string
		}{
			{2, true, 200, `{"service":{"namespace":"ns","name":"s32000"},"localEndpoints":2,"serviceProxyHealthy":true}`, "2"},
			{0, true, 503, `"localEndpoints":0`, "0"},
			{1, false, 503, `"serviceProxyHealthy":false`, "1"},
		} {
			healthy = c.healthy
			s.sync(t, snapshotOf(corev1.IPv4Protocol, c.local, 32000), snapshotOf(corev1.IPv6Protocol, 7, 32000))
			code, text, weight := m.get(t, "tcp4 0.0.0.0:32000")
			if code != c.code || !strings.Contains(text, c.body) || weight != c.weight {
				t.Errorf("local %d: %d %s, weight %s", c.local, code, text, weight)
			}
		}
		if _, text, _ := m.get(t, "tcp6 [::]:32000"); !strings.Contains(text, `"localEndpoints":7`) {
			t.Errorf("the other family's count: %s", text)
		}
		s.sync(t, snapshotOf(corev1.IPv6Protocol, 0))
		if got := m.listening(); got != "tcp4 0.0.0.0:32000" {
			t.Errorf("after the Service lost its address of a family there listens %s", got)
		}
		s.sync(t, snapshotOf(corev1.IPv4Protocol, 0))
		if got := m.listening(); got != "" {
			t.Errorf("of a Service that is gone there listens %s", got)
		}
	})
}

// TestListensWhereNodePortsAnswer: on the machine's addresses of nodePortAddresses, as they come
// and go, and on no other.
func TestListensWhereNodePortsAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &machine{}
		s := begin(t, m, always)
		ranges := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("fe80::/10")}
		for _, c := range []struct {
			nodePorts snapshot.NodePortAddresses
			machine   []string
			want      string
		}{
			{
				snapshot.NodePortAddresses{Ranges: ranges},
				[]string{"127.0.0.1", "192.0.2.7", "10.1.0.1", "::1", "2001:db8::7", "fe80::1"},
				"tcp4 192.0.2.7:32000, tcp6 [2001:db8::7]:32000",
			},
			{snapshot.NodePortAddresses{Ranges: ranges}, []string{"127.0.0.1", "192.0.2.7", "192.0.2.8", "::1"}, "tcp4 192.0.2.7:32000, tcp4 192.0.2.8:32000"},
			{snapshot.NodePortAddresses{Ranges: ranges}, []string{"192.0.2.8"}, "tcp4 192.0.2.8:32000"},
			{snapshot.NodePortAddresses{Primary: true}, []string{"127.0.0.1", "192.0.2.7", "10.1.0.1"}, "tcp4 192.0.2.7:32000"},
		} {
			for _, f := range []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol} {
				now := snapshotOf(f, 1, 32000)
				for _, a := range c.machine {
					now.Node.Local = append(now.Node.Local, netip.MustParseAddr(a))
				}
				now.NodePorts = c.nodePorts.At(f, now.Node)
				s.sync(t, now)
			}
			if got := m.listening(); got != c.want {
				t.Errorf("on a machine with %v, %+v: there listens %s, want %s", c.machine, c.nodePorts, got, c.want)
			}
		}
	})
}

// TestABusyPortIsTriedAgain: reported once, in the status for as long as it lasts, and served some
// seconds after it is free.
func TestABusyPortIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &machine{busy: map[string]bool{"tcp4 0.0.0.0:32000": true}}
		s := begin(t, m, always)
		s.sync(t, snapshotOf(corev1.IPv4Protocol, 1, 32000, 32001))
		if got := m.listening(); got != "tcp4 0.0.0.0:32001" {
			t.Errorf("beside the busy one there listens %s", got)
		}
		time.Sleep(time.Minute)
		if got := s.Problems(); len(got) != 1 || !strings.Contains(got[0], `32000 of Service "ns/s32000"`) || !strings.Contains(got[0], "in use") {
			t.Errorf("the status says %q", got)
		}
		m.mu.Lock()
		if len(m.failed) != 1 || !strings.HasPrefix(m.failed[0], "ns/s32000 32000 ") {
			t.Errorf("reported: %q, want it once", m.failed)
		}
		m.busy = nil
		m.mu.Unlock()
		time.Sleep(retry)
		synctest.Wait()
		if got := m.listening(); got != "tcp4 0.0.0.0:32000, tcp4 0.0.0.0:32001" || len(s.Problems()) != 0 {
			t.Errorf("after it became free there listens %s, problems %q", got, s.Problems())
		}
	})
}
