package e2e_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/nodeagent/nodeagent/test/bed"
)

const (
	trafficVIP = "10.96.77.77"
	// places are addresses of endpoints, all of them the node's own: what is tested is the way to them.
	places = 8
	// rate is how many short connections are made a second.
	rate = 1000
)

// agentAndProxy is a node of ours on which kube-proxy can be started as well.
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

// TestTraffic: a connection that lasts and a thousand short ones a second go through a Service while the agent is killed,
// endpoints change a hundred times a second, kube-proxy takes over and the agent takes over from it: no reset, no failed
// connect. NODEAGENT_CHURN is how long endpoints change; default 10s.
func TestTraffic(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
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
	client := fastClient(t, c)
	slice, err := client.DiscoveryV1().EndpointSlices("default").Create(ctx, trafficSlice(places), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
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
	phase("quiet", func() error { return pause(ctx, 2*time.Second) })
	phase("endpoints change", func() error { return changeEndpoints(ctx, client, slice, churn) })
	phase("agent is killed and started", func() error {
		return errors.Join(agent.Kill(), pause(ctx, time.Second), agent.Start(), proxySyncs(ctx, n), pause(ctx, time.Second))
	})
	var proxy *bed.Process
	phase("kube-proxy takes over", func() (err error) {
		if err := agent.Kill(); err != nil {
			return err
		}
		proxy, err = bed.Peer{}.StartProxy(ctx, n)
		return errors.Join(err, proxySyncs(ctx, n), pause(ctx, time.Second))
	})
	phase("endpoints change under kube-proxy", func() error { return changeEndpoints(ctx, client, slice, churn/4) })
	phase("the agent takes over", func() error {
		return errors.Join(proxy.Kill(), agent.Start(), proxySyncs(ctx, n), pause(ctx, time.Second))
	})
	phase("endpoints change again", func() error { return changeEndpoints(ctx, client, slice, churn/4) })
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
	return ctx.Err()
}

// proxySyncs waits until port 10256 of the node says that rules are in place.
func proxySyncs(ctx context.Context, n *bed.Node) error {
	client := http.Client{Transport: &http.Transport{DialContext: n.Dial, DisableKeepAlives: true}, Timeout: 2 * time.Second}
	for ctx.Err() == nil {
		answer, err := client.Get("http://127.0.0.1:10256/livez")
		if err == nil {
			_ = answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return nil
			}
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func fastClient(t *testing.T, c *bed.Cluster) kubernetes.Interface {
	t.Helper()
	config, err := c.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	config.QPS, config.Burst = 1000, 1000
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func placeAddress(i int) string { return fmt.Sprintf("10.244.251.%d", i+1) }

// trafficSlice has the first endpoint, and of the others some.
func trafficSlice(some int) *discoveryv1.EndpointSlice {
	short, long, shortPort, longPort := "short", "long", int32(8080), int32(7000)
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: "traffic", Labels: map[string]string{discoveryv1.LabelServiceName: "traffic"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &short, Port: &shortPort}, {Name: &long, Port: &longPort}},
	}
	for i := range places {
		if i == 0 || rand.IntN(places) < some {
			s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{placeAddress(i)}})
		}
	}
	return s
}

// changeEndpoints changes them a hundred times a second.
func changeEndpoints(ctx context.Context, client kubernetes.Interface, slice *discoveryv1.EndpointSlice, d time.Duration) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	n := 0
	for end := time.Now().Add(d); time.Now().Before(end); n++ {
		slice.Endpoints = trafficSlice(places / 2).Endpoints
		slice.ResourceVersion = ""
		if _, err := client.DiscoveryV1().EndpointSlices("default").Update(ctx, slice, metav1.UpdateOptions{}); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	if least := int(d / (40 * time.Millisecond)); n < least {
		return fmt.Errorf("only %d changes in %s", n, d)
	}
	return nil
}

// serveTraffic answers on the node: port 8080 says a word and hangs up, port 7000 echoes lines.
func serveTraffic(ctx context.Context, t *testing.T, n *bed.Node) {
	t.Helper()
	for i := range places {
		if out, err := n.Output(ctx, "ip", "addr", "add", placeAddress(i)+"/32", "dev", "lo"); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	for port, answer := range map[int]func(net.Conn){
		8080: func(c net.Conn) { _, _ = io.WriteString(c, "hello\n") },
		7000: func(c net.Conn) { _, _ = io.Copy(c, c) },
	} {
		l, err := listenIn(n.NetNS(), fmt.Sprintf(":%d", port))
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

// listenIn listens in a network namespace.
func listenIn(name, address string) (net.Listener, error) {
	runtime.LockOSThread()
	here, err := netns.Get()
	if err != nil {
		return nil, err
	}
	defer here.Close()
	there, err := netns.GetFromName(name)
	if err != nil {
		return nil, err
	}
	defer there.Close()
	if err := netns.Set(there); err != nil {
		return nil, err
	}
	defer func() {
		if netns.Set(here) == nil {
			runtime.UnlockOSThread()
		}
	}()
	return net.Listen("tcp4", address)
}

func longConnection(ctx context.Context, t *testing.T, n *bed.Node) net.Conn {
	t.Helper()
	var conn net.Conn
	eventually(ctx, t, 20*time.Second, "connecting to "+trafficVIP, func() (bool, string) {
		limit, cancel := context.WithTimeout(ctx, time.Second) // a packet that met no rules yet is never translated
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

// stream makes short connections until it is stopped.
type stream struct {
	stop func()

	mu     sync.Mutex
	made   int
	errors []string
	slow   int           // took more than half a second
	worst  time.Duration // the slowest of them
}

func startStream(ctx context.Context, t *testing.T, n *bed.Node) *stream {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	s := &stream{}
	var under sync.WaitGroup
	s.stop = func() {
		cancel()
		under.Wait()
	}
	under.Go(func() {
		tick := time.NewTicker(time.Second / rate)
		defer tick.Stop()
		room := make(chan struct{}, 64)
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			select {
			case room <- struct{}{}:
				under.Go(func() {
					s.one(ctx, n)
					<-room
				})
			default: // the machine is slower than that
			}
		}
	})
	return s
}

func (s *stream) one(ctx context.Context, n *bed.Node) {
	begin := time.Now()
	err := short(ctx, n)
	took := time.Since(begin)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		if ctx.Err() == nil {
			s.errors = append(s.errors, err.Error())
		}
		return
	}
	s.made++
	if took > time.Second/2 {
		s.slow++
	}
	s.worst = max(s.worst, took)
}

func short(ctx context.Context, n *bed.Node) error {
	limit, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c, err := n.Dial(limit, "tcp", trafficVIP+":80")
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	line, err := bufio.NewReader(c).ReadString('\n')
	if err == nil && line != "hello\n" {
		err = fmt.Errorf("the answer is %q", line)
	}
	return err
}

// report says how it went since the last report; any failure fails the test.
func (s *stream) report(t *testing.T) string {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.errors) > 0 {
		t.Errorf("%d of %d connections failed: %s", len(s.errors), s.made+len(s.errors), strings.Join(s.errors[:min(5, len(s.errors))], "; "))
	}
	if s.made == 0 {
		t.Error("no connection was made")
	}
	out := fmt.Sprintf("%d short connections, %d failed, %d took more than 500ms, the slowest %s", s.made, len(s.errors), s.slow, s.worst.Round(time.Millisecond))
	s.made, s.errors, s.slow, s.worst = 0, nil, 0, 0
	return out
}
