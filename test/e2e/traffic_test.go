package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sync/errgroup"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/nodeagent/nodeagent/pkg/sleep"
	"github.com/nodeagent/nodeagent/test/bed"
)

const (
	trafficVIP = "10.96.77.77"
	// places is the number of endpoint addresses. All belong to the node: the test is about the way
	// to them.
	places = 8
	// slicesOf is the number of EndpointSlices that they are in; each has its own writer.
	slicesOf = 4
	// changes is the number of endpoint changes a second.
	changes = 100
	// rate is the number of short connections that begin each second, whether earlier ones have
	// ended or not.
	rate = 1000
	// callers is how many of them may be open at a time.
	callers = 64
)

// agentAndProxy is a nodeagent node on which kube-proxy can be started too.
type agentAndProxy struct{ bed.NodeAgent }

// Tools implements bed.Kind.
func (agentAndProxy) Tools() []string { return []string{"kube-proxy"} }

const trafficService = `
apiVersion: v1
kind: Service
metadata: {name: traffic}
spec:
  clusterIP: ` + trafficVIP + `
  ports: [{name: short, port: 80}, {name: long, port: 7}]
`

// TestTraffic: a lasting connection and a thousand short ones a second go through a Service while
// the agent is killed, endpoints change a hundred times a second, kube-proxy takes over, and the
// agent takes over from it: no reset, no failed connect. NODEAGENT_CHURN is how long endpoints
// change; default 10s, 60s for the figures.
func TestTraffic(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	churn, err := time.ParseDuration(os.Getenv("NODEAGENT_CHURN"))
	if err != nil {
		churn = 10 * time.Second
	}
	c := bed.New(t, bed.Options{Nodes: []bed.Kind{agentAndProxy{}}})
	n := c.Nodes()[0]
	serveTraffic(ctx, t, n)
	if err := c.Apply(ctx, trafficService); err != nil {
		t.Fatal(err)
	}
	client := clientOf(t, c)
	for i := range slicesOf {
		if _, err := client.DiscoveryV1().EndpointSlices("default").Create(ctx, trafficSlice(i), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	conn := longConnection(ctx, t, n)
	s := startStream(ctx, t, n)
	defer s.stop()
	agent := n.Process("nodeagent")
	phase := func(what string, do func() error) {
		t.Helper()
		begin := time.Now()
		if err := do(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		echo(t, conn, "after "+what)
		t.Logf("%s: %s in %s", what, s.report(t), time.Since(begin).Round(time.Millisecond))
	}
	phase("quiet", func() error { return sleep.For(ctx, 2*time.Second) })
	phase("endpoints change", func() error { return changeEndpoints(ctx, t, client, churn) })
	phase("agent is killed and started", func() error {
		return errors.Join(agent.Kill(), sleep.For(ctx, time.Second), agent.Start(), proxySyncs(ctx, n), sleep.For(ctx, time.Second))
	})
	var proxy *bed.Process
	phase("kube-proxy takes over", func() (err error) {
		if err := agent.Kill(); err != nil {
			return err
		}
		proxy, err = bed.Peer{}.StartProxy(ctx, n)
		return errors.Join(err, proxySyncs(ctx, n), sleep.For(ctx, time.Second))
	})
	phase("endpoints change under kube-proxy", func() error { return changeEndpoints(ctx, t, client, churn/4) })
	phase("the agent takes over", func() error {
		return errors.Join(proxy.Kill(), agent.Start(), proxySyncs(ctx, n), sleep.For(ctx, time.Second))
	})
	phase("endpoints change again", func() error { return changeEndpoints(ctx, t, client, churn/4) })
}

// proxySyncs waits until port 10256 of the node reports that the rules are in place.
func proxySyncs(ctx context.Context, n *bed.Node) error {
	client := http.Client{Transport: &http.Transport{DialContext: n.Dial, DisableKeepAlives: true}, Timeout: 10 * time.Second}
	for ctx.Err() == nil {
		answer, err := client.Get("http://127.0.0.1:10256/livez")
		if err == nil {
			_ = answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return nil
			}
		}
		if err := sleep.For(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func placeAddress(i int) string { return fmt.Sprintf("10.244.251.%d", i+1) }

// trafficSlice is the i-th slice with a random part of its places; the very first place is always
// in it.
func trafficSlice(i int) *discoveryv1.EndpointSlice {
	short, long, shortPort, longPort := "short", "long", int32(8088), int32(7000)
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: fmt.Sprintf("traffic-%d", i), Labels: map[string]string{discoveryv1.LabelServiceName: "traffic"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &short, Port: &shortPort}, {Name: &long, Port: &longPort}},
	}
	for place := i; place < places; place += slicesOf {
		if place == 0 || rand.IntN(2) == 0 {
			s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{placeAddress(place)}})
		}
	}
	return s
}

// changeEndpoints changes the slices a hundred times a second, each time to something else.
func changeEndpoints(ctx context.Context, t *testing.T, client kubernetes.Interface, d time.Duration) error {
	var made atomic.Int64
	var g errgroup.Group
	begin := time.Now()
	for i := range slicesOf {
		g.Go(func() error {
			before := ""
			for n := 0; time.Since(begin) < d; n++ {
				due := begin.Add(time.Duration(n) * slicesOf * time.Second / changes)
				// by the clock: late changes are caught up
				if err := sleep.For(ctx, time.Until(due)); err != nil {
					return err
				}
				slice := trafficSlice(i)
				for fmt.Sprint(slice.Endpoints) == before {
					slice = trafficSlice(i)
				}
				before = fmt.Sprint(slice.Endpoints)
				if _, err := client.DiscoveryV1().EndpointSlices("default").Update(ctx, slice, metav1.UpdateOptions{}); err != nil {
					return err
				}
				made.Add(1)
			}
			return nil
		})
	}
	err := g.Wait()
	each := float64(made.Load()) / time.Since(begin).Seconds()
	t.Logf("%d changes of endpoints, %.0f a second", made.Load(), each)
	if least := changes / 10.0; err == nil && each < least {
		return fmt.Errorf("%.0f changes a second, less than %.0f: that is no test", each, least)
	}
	return err
}

// serveTraffic answers on the node: port 8088 sends a line and hangs up, port 7000 echoes lines.
func serveTraffic(ctx context.Context, t *testing.T, n *bed.Node) {
	t.Helper()
	for i := range places {
		if out, err := n.Output(ctx, "ip", "addr", "add", placeAddress(i)+"/32", "dev", "lo"); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	answerIn(t, n.NetNS())
}

// answerIn runs the endpoints' servers at every address of a network namespace.
func answerIn(t *testing.T, namespace string) {
	t.Helper()
	for port, answer := range map[int]func(net.Conn){
		// it waits for the caller to hang up, so that it keeps no TIME_WAIT
		8088: func(c net.Conn) {
			_, _ = io.WriteString(c, "hello\n")
			_, _ = c.Read(make([]byte, 1))
		},
		7000: func(c net.Conn) { _, _ = io.Copy(c, c) },
	} {
		l, err := bed.Listen(namespace, fmt.Sprintf(":%d", port))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					answer(c)
					_ = c.Close()
				}()
			}
		}()
	}
}

func longConnection(ctx context.Context, t *testing.T, n *bed.Node) net.Conn {
	t.Helper()
	var conn net.Conn
	eventually(ctx, t, soon, "connecting to "+trafficVIP, func() (bool, string) {
		// a connection whose first packet met no rules is never translated
		limit, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		c, err := n.Dial(limit, "tcp", trafficVIP+":7")
		if err != nil {
			return false, err.Error()
		}
		conn = c
		return true, ""
	})
	t.Cleanup(func() { _ = conn.Close() })
	echo(t, conn, "hello")
	return conn
}

// stream begins short connections at a fixed rate, until it is stopped.
type stream struct {
	stop func()

	mu     sync.Mutex
	begun  time.Time // of what is reported next
	took   []time.Duration
	errors []string
	missed int // were not begun: all callers were busy
}

// sources are the callers' addresses: the node's, whose connections are masqueraded, and addresses
// of its pods.
func sources(n *bed.Node) []string {
	out := []string{n.IP.String()}
	for i := range 7 {
		out = append(out, fmt.Sprintf("10.244.252.%d", i+1))
	}
	return out
}

// startStream starts connections by the clock from several addresses, so that a late one counts as
// slow and ports do not run out.
func startStream(ctx context.Context, t *testing.T, n *bed.Node) *stream {
	t.Helper()
	from := sources(n)
	for _, a := range from[1:] {
		if out, err := n.Output(ctx, "ip", "addr", "add", a+"/32", "dev", "lo"); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &stream{begun: time.Now()}
	var under sync.WaitGroup
	s.stop = func() {
		cancel()
		under.Wait()
	}
	due := make(chan time.Time, callers)
	for i := range callers {
		under.Go(func() { s.call(ctx, t, n.NetNS(), from[i%len(from)], due) })
	}
	under.Go(func() {
		defer close(due)
		begin := time.Now()
		for i := 0; ctx.Err() == nil; i++ {
			at := begin.Add(time.Duration(i) * time.Second / rate)
			time.Sleep(time.Until(at))
			select {
			case due <- at:
			default:
				s.add(0, errBusy)
			}
		}
	})
	return s
}

var errBusy = errors.New("all callers are busy")

// call makes connections that are due, on a thread that stays in the namespace.
func (s *stream) call(ctx context.Context, t *testing.T, namespace, source string, due <-chan time.Time) {
	runtime.LockOSThread() // and ends with it
	there, err := netns.GetFromName(namespace)
	if err == nil {
		defer there.Close()
		err = netns.Set(there)
	}
	if err != nil {
		t.Errorf("entering %s: %v", namespace, err)
		return
	}
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
	for at := range due {
		err := shortTo(ctx, dialer.DialContext, trafficVIP+":80")
		if ctx.Err() == nil {
			s.add(time.Since(at), err)
		}
	}
}

func (s *stream) add(took time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case errors.Is(err, errBusy):
		s.missed++
	case err != nil:
		s.errors = append(s.errors, err.Error())
	default:
		s.took = append(s.took, took)
	}
}

// report describes the connections since the last report; any failed one fails the test.
func (s *stream) report(t *testing.T) string {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.errors) > 0 {
		t.Errorf("%d of %d connections failed: %s", len(s.errors), len(s.took)+len(s.errors), strings.Join(s.errors[:min(5, len(s.errors))], "; "))
	}
	each := float64(len(s.took)) / time.Since(s.begun).Seconds()
	if each < rate/20 {
		t.Errorf("%.0f connections a second: that is no test", each)
	}
	out := "none"
	if slices.Sort(s.took); len(s.took) > 0 {
		at := func(share float64) time.Duration {
			return s.took[int(share*float64(len(s.took)-1))].Round(100 * time.Microsecond)
		}
		out = fmt.Sprintf("%d short connections, %.0f a second (%d not begun, callers were busy), %d failed, p50 %s, p99 %s, the slowest %s",
			len(s.took), each, s.missed, len(s.errors), at(0.5), at(0.99), at(1))
	}
	s.took, s.errors, s.missed, s.begun = nil, nil, 0, time.Now()
	return out
}
