package healthcheck

import (
	"context"
	"errors"
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

// machine has addresses to listen on; those in busy are another program's.
type machine struct {
	mu        sync.Mutex
	addresses []string
	open      map[string]*pipe
	busy      map[string]bool
	failed    []string
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

func (m *machine) list() ([]netip.Addr, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.addresses == nil {
		return nil, errors.New("no buffer space")
	}
	var out []netip.Addr
	for _, a := range m.addresses {
		out = append(out, netip.MustParseAddr(a))
	}
	return out, nil
}

func (m *machine) set(addresses ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.addresses = addresses
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
func begin(t *testing.T, m *machine, nodePorts snapshot.NodePortAddresses, healthy func() bool) *Server {
	t.Helper()
	m.open = map[string]*pipe{}
	s, err := New(Config{
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Healthy: healthy, NodePorts: nodePorts, Addresses: m.list, Listen: m.listen,
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
	out := &snapshot.Snapshot{Family: f, Node: snapshot.Node{Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")}}}
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
		s := begin(t, m, snapshot.NodePortAddresses{}, func() bool { return healthy })
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
		m.set("127.0.0.1", "192.0.2.7", "10.1.0.1", "::1", "2001:db8::7", "fe80::1")
		ranges := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("fe80::/10")}
		s := begin(t, m, snapshot.NodePortAddresses{Ranges: ranges}, always)
		s.sync(t, snapshotOf(corev1.IPv4Protocol, 1, 32000), snapshotOf(corev1.IPv6Protocol, 1, 32000))
		want := func(when, want string) {
			t.Helper()
			if got := m.listening(); got != want {
				t.Errorf("%s there listens %s, want %s", when, got, want)
			}
		}
		want("at first", "tcp4 192.0.2.7:32000, tcp6 [2001:db8::7]:32000")
		m.set("127.0.0.1", "192.0.2.7", "192.0.2.8", "::1")
		s.AddressesChanged(t.Context())
		want("after one came and one went", "tcp4 192.0.2.7:32000, tcp4 192.0.2.8:32000")
		m.set()
		s.AddressesChanged(t.Context())
		want("while addresses cannot be listed", "tcp4 192.0.2.7:32000, tcp4 192.0.2.8:32000")
		if got := s.Problems(); len(got) != 2 {
			t.Errorf("addresses cannot be listed, and the status says %q", got)
		}
		m.set("192.0.2.8")
		time.Sleep(retry)
		synctest.Wait()
		want("after they can be listed again", "tcp4 192.0.2.8:32000")
		if got := s.Problems(); len(got) != 0 {
			t.Errorf("nothing is wrong any more, and the status says %q", got)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		m := &machine{}
		m.set("127.0.0.1", "192.0.2.7", "10.1.0.1")
		s := begin(t, m, snapshot.NodePortAddresses{Primary: true}, always)
		s.sync(t, snapshotOf(corev1.IPv4Protocol, 1, 32000))
		if got := m.listening(); got != "tcp4 192.0.2.7:32000" {
			t.Errorf("with nodePortAddresses primary there listens %s", got)
		}
	})
}

// TestABusyPortIsTriedAgain: told once, in the status for as long as it lasts, and served some
// seconds after it is free.
func TestABusyPortIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &machine{busy: map[string]bool{"tcp4 0.0.0.0:32000": true}}
		s := begin(t, m, snapshot.NodePortAddresses{}, always)
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
			t.Errorf("told: %q, want it once", m.failed)
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
