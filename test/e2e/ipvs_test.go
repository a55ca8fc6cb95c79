package e2e_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/pkg/sleep"
	"github.com/nodeagent/nodeagent/test/bed"
)

const proxierOff = "apiVersion: nodeagent.dev/v1alpha1\nkind: NodeAgentConfiguration\nproxier: off\n"

// behind is the prefix of endpoint addresses in the control plane's namespace, which the machine
// reaches over the network.
const (
	ipvsVIP  = "10.96.77.77"
	otherVIP = "10.96.77.78"
	behind   = "192.168.77.20"
)

var ipvsServices = strings.NewReplacer("VIP", ipvsVIP, "OTHER", otherVIP, "BEHIND", behind).Replace(`
apiVersion: v1
kind: Service
metadata: {name: old}
spec:
  type: NodePort
  clusterIP: VIP
  ports: [{name: short, port: 80, nodePort: 30780}, {name: long, port: 7, nodePort: 30707}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: old, labels: {kubernetes.io/service-name: old}}
addressType: IPv4
ports: [{name: short, port: 8088}, {name: long, port: 7000}]
endpoints: [{addresses: [BEHIND1]}, {addresses: [BEHIND2]}, {addresses: [BEHIND3]}, {addresses: [BEHIND4]}]
---
apiVersion: v1
kind: Service
metadata: {name: other}
spec:
  clusterIP: OTHER
  ports: [{port: 80}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: other, labels: {kubernetes.io/service-name: other}}
addressType: IPv4
ports: [{port: 8088}]
endpoints: [{addresses: [BEHIND1]}]
`)

// TestFromIPVS: nodeagent takes over a machine from a kube-proxy in mode ipvs while connections go
// through IPVS: from outside to a cluster IP and to a node port, and from the machine itself. These
// live as long as their ends want, new ones are served all the time, and in the end nothing of
// kube-proxy is left, while rules of others stay.
func TestFromIPVS(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	c := bed.New(t, bed.Options{})
	u, err := c.AddUML(ctx, "u1")
	if err != nil {
		t.Fatal(err)
	}
	out, err := u.InstallNodeAgent(ctx, bed.NodeAgent{Config: proxierOff})
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	p := place{NodeNet: u.NodeNet, cluster: c, run: func(ctx context.Context, args ...string) (string, error) { return u.Output(ctx, args...) }}
	t.Cleanup(func() { keepJournal(t, u) })
	serveBehind(ctx, t, c, u.IP.String())
	if err := c.Apply(ctx, ipvsServices); err != nil {
		t.Fatal(err)
	}
	startIPVS(ctx, t, p, u)
	p.on(ctx, t, "sh", "-c", "ipvsadm -A -t 192.0.2.10:80 -s rr && ipvsadm -a -t 192.0.2.10:80 -r "+behind+"1:8088 -m && ipset create MINE hash:ip")

	long := map[string]*lasting{}
	for name, address := range map[string]string{"cluster IP": ipvsVIP + ":7", "node port": u.IP.String() + ":30707"} {
		conn, err := c.Dial(ctx, "tcp4", address)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		long[name] = keepTalking(conn)
	}
	own, hangUp := dialOnMachine(ctx, t, u)
	long["the machine itself"] = keepTalking(own)
	short := shortOnes(ctx, c)
	pauseFor(ctx, t, 2*time.Second)
	t.Logf("under kube-proxy:\n%s", p.on(ctx, t, "ipvsadm", "-Ln"))
	if flows := p.on(ctx, t, "ipvsadm", "-Lnc"); strings.Count(flows, "ESTABLISHED") < len(long) {
		t.Fatalf("the connections do not go through IPVS:\n%s", flows)
	}

	takeOver(ctx, t, p, u)
	pauseFor(ctx, t, 3*time.Second)
	short.report(t, "while nodeagent took over")
	for name, l := range long {
		l.report(t, name)
	}
	var after string
	eventually(ctx, t, soon, "the end of virtual servers without connections", func() (bool, string) {
		after = p.on(ctx, t, "ipvsadm", "-Ln")
		return !strings.Contains(after, otherVIP) && !strings.Contains(after, "10.96.0.1:"), after
	})
	t.Logf("after nodeagent has taken over:\n%s", after)
	if !strings.Contains(after, ipvsVIP+":7 ") {
		t.Error("the virtual server of connections that live is gone")
	}
	refused(ctx, t, p, ipvsVIP+":10250")
	if source := p.on(ctx, t, "ip", "route", "get", ipvsVIP); !strings.Contains(source, "src "+u.IP.String()) {
		t.Errorf("new connections of the machine to the Service start at another address than its own: %s", source)
	}

	begin := time.Now()
	hangUp()
	for _, l := range long {
		l.hangUp()
	}
	eventually(ctx, t, 4*time.Minute, "the end of IPVS", func() (bool, string) {
		left := p.on(ctx, t, "sh", "-c", "ipvsadm -Ln; ip -br link show kube-ipvs0 2>&1 || true; ipset list -n")
		return !strings.Contains(left, "kube-ipvs0 ") && !strings.Contains(left, "KUBE-"), left
	})
	t.Logf("%s after the last connection was closed, nothing of kube-proxy's IPVS is left", time.Since(begin).Round(time.Second))
	short.report(t, "while IPVS went")
	short.stop()
	nothingOfIPVS(ctx, t, p)

	// The same with an immediate cleanup.
	p.on(ctx, t, "systemctl", "stop", "nodeagent")
	p.on(ctx, t, "nodeagent", "proxy", "cleanup", "--config", "/etc/nodeagent")
	startIPVS(ctx, t, p, u)
	conn, err := c.Dial(ctx, "tcp4", ipvsVIP+":7")
	if err != nil {
		t.Fatal(err)
	}
	l := keepTalking(conn)
	p.on(ctx, t, "systemctl", "stop", "kube-proxy")
	t.Logf("nodeagent proxy cleanup: %s", p.on(ctx, t, "nodeagent", "proxy", "cleanup", "--config", "/etc/nodeagent"))
	nothingOfIPVS(ctx, t, p)
	_ = conn.SetReadDeadline(time.Now().Add(3 * time.Second))
	pauseFor(ctx, t, 4*time.Second)
	t.Logf("a connection through IPVS when its virtual server is deleted: %s", l)
	if got := p.on(ctx, t, "sh", "-c", "iptables-save | grep KUBE- || true"); got != "" {
		t.Errorf("rules are left after cleanup:\n%s", got)
	}
	p.on(ctx, t, "nodeagent", "proxy", "cleanup", "--config", "/etc/nodeagent")
}

// refused checks that a port of the host cannot be reached at a Service's address.
func refused(ctx context.Context, t *testing.T, p place, address string) {
	t.Helper()
	limit, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	conn, err := p.cluster.Dial(limit, "tcp4", address)
	if err == nil {
		conn.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("connecting to %s: %v, want it refused\n%s", address, err,
			p.on(ctx, t, "sh", "-c", "iptables -vnL INPUT; iptables -vnL KUBE-IPVS-FILTER; ip route show table local; ipset list KUBE-IPVS-IPS"))
	}
}

// nothingOfIPVS checks that everything of kube-proxy is gone, and that what belongs to others is
// not.
func nothingOfIPVS(ctx context.Context, t *testing.T, p place) {
	t.Helper()
	servers := p.on(ctx, t, "ipvsadm", "-Ln")
	if !strings.Contains(servers, "192.0.2.10:80") || strings.Contains(servers, "10.96.") || strings.Contains(servers, ":307") {
		t.Errorf("virtual servers:\n%s", servers)
	}
	if sets := p.on(ctx, t, "ipset", "list", "-n"); sets != "MINE\n" {
		t.Errorf("ip sets: %q", sets)
	}
	rules := p.on(ctx, t, "iptables-save")
	for _, chain := range []string{"KUBE-IPVS-", "KUBE-NODE-PORT ", "KUBE-LOAD-BALANCER", "KUBE-SOURCE-RANGES"} {
		if strings.Contains(rules, chain) {
			t.Errorf("chain %s is left:\n%s", chain, rules)
		}
	}
	if _, err := p.run(ctx, "ip", "link", "show", "kube-ipvs0"); err == nil {
		t.Error("kube-ipvs0 is left")
	}
}

// startIPVS starts kube-proxy and waits until it serves.
func startIPVS(ctx context.Context, t *testing.T, p place, u *bed.UMLNode) {
	t.Helper()
	if err := u.StartKubeProxy(ctx, "ipvs", "ipvs: {excludeCIDRs: [192.0.2.0/24]}\n"); err != nil {
		t.Fatal(err)
	}
	eventually(ctx, t, soon, "kube-proxy in mode ipvs", func() (bool, string) {
		out, err := p.run(ctx, "ipvsadm", "-Ln")
		return err == nil && strings.Contains(out, ipvsVIP+":7 ") && strings.Contains(out, behind+"4:7000") &&
			strings.Contains(out, otherVIP+":80 ") && strings.Contains(out, u.IP.String()+":30707"), out
	})
}

// takeOver stops kube-proxy and starts the agent's services half.
func takeOver(ctx context.Context, t *testing.T, p place, u *bed.UMLNode) {
	t.Helper()
	p.on(ctx, t, "systemctl", "stop", "kube-proxy")
	if err := u.WriteFile(ctx, "/etc/nodeagent/40-test.yaml", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	p.on(ctx, t, "systemctl", "restart", "nodeagent")
	eventually(ctx, t, soon, "the agent's rules", func() (bool, string) {
		out, err := p.run(ctx, "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://127.0.0.1:10256/livez")
		return err == nil && out == "200", fmt.Sprint(out, err)
	})
}

// serveBehind serves the endpoints, and routes cluster IPs through the machine.
func serveBehind(ctx context.Context, t *testing.T, c *bed.Cluster, via string) {
	t.Helper()
	for i := range 4 {
		if out, err := c.Command(ctx, "ip", "addr", "add", fmt.Sprintf("%s%d/32", behind, i+1), "dev", "lo").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	if out, err := c.Command(ctx, "ip", "route", "add", "10.96.77.0/24", "via", via).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	answerIn(t, c.NetNS())
}

func pauseFor(ctx context.Context, t *testing.T, d time.Duration) {
	t.Helper()
	if err := sleep.For(ctx, d); err != nil {
		t.Fatal(err)
	}
}

// lasting is a connection on which a line goes back and forth twenty times a second.
type lasting struct {
	conn io.ReadWriteCloser

	mu     sync.Mutex
	lines  int
	worst  time.Duration
	failed error
}

func keepTalking(conn io.ReadWriteCloser) *lasting {
	l := &lasting{conn: conn}
	go func() {
		lines := bufio.NewReader(conn)
		for i := 0; ; i++ {
			line := fmt.Sprintf("line %d\n", i)
			begin := time.Now()
			_, err := io.WriteString(conn, line)
			var got string
			if err == nil {
				got, err = lines.ReadString('\n')
			}
			if err == nil && got != line {
				err = fmt.Errorf("the answer to %q is %q", line, got)
			}
			l.mu.Lock()
			if l.worst = max(l.worst, time.Since(begin)); err != nil {
				l.failed = err
			}
			l.lines++
			l.mu.Unlock()
			if err != nil {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
	}()
	return l
}

func (l *lasting) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Sprintf("%d lines, the slowest answered after %s, error %v", l.lines, l.worst.Round(time.Millisecond), l.failed)
}

func (l *lasting) report(t *testing.T, name string) {
	t.Helper()
	progress := func() (lines int, failed error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.lines, l.failed
	}
	before, _ := progress()
	lines, failed := before, error(nil)
	for began := time.Now(); lines < before+10 && failed == nil && time.Since(began) < soon; time.Sleep(50 * time.Millisecond) {
		lines, failed = progress()
	}
	t.Logf("%s: %s", name, l)
	if failed != nil || lines <= before {
		t.Errorf("the connection from before, %s: %d lines, %v", name, lines-before, failed)
	}
}

// hangUp ends the connection by a reset, which IPVS forgets soon.
func (l *lasting) hangUp() {
	if tcp, ok := l.conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = l.conn.Close()
}

// pipes are a program's standard streams.
type pipes struct {
	io.Reader
	io.WriteCloser
}

// dialOnMachine connects to the Service from the machine; hangUp ends that.
func dialOnMachine(ctx context.Context, t *testing.T, u *bed.UMLNode) (io.ReadWriteCloser, func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, err := u.Run(ctx, bed.UMLCommand{Args: []string{"socat", "-", "TCP:" + ipvsVIP + ":7,linger=0"}, Stdin: inR, Stdout: outW})
		_ = outW.CloseWithError(fmt.Errorf("socat on the machine ended: %w", err))
	}()
	return pipes{outR, inW}, func() {
		cancel()
		<-ended
	}
}

// shorts are short connections to the Service's cluster IP and node port, forty a second.
type shorts struct {
	mu     sync.Mutex
	made   int
	worst  time.Duration
	errors []string
	end    context.CancelFunc
	under  sync.WaitGroup
}

func shortOnes(ctx context.Context, c *bed.Cluster) *shorts {
	ctx, cancel := context.WithCancel(ctx)
	s := &shorts{end: cancel}
	s.under.Go(func() {
		for ctx.Err() == nil {
			s.under.Go(func() { s.one(ctx, c) })
			_ = sleep.For(ctx, 25*time.Millisecond)
		}
	})
	return s
}

func (s *shorts) stop() {
	s.end()
	s.under.Wait()
}

func (s *shorts) one(ctx context.Context, c *bed.Cluster) {
	begin := time.Now()
	err := shortTo(ctx, c.Dial, ipvsVIP+":80")
	s.mu.Lock()
	defer s.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		s.errors = append(s.errors, err.Error())
		return
	}
	s.made++
	s.worst = max(s.worst, time.Since(begin))
}

func (s *shorts) report(t *testing.T, when string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	t.Logf("%s: %d short connections, %d failed, the slowest took %s", when, s.made, len(s.errors), s.worst.Round(time.Millisecond))
	if len(s.errors) > 0 || s.made == 0 {
		t.Errorf("%s: %d of %d short connections failed: %s", when, len(s.errors), len(s.errors)+s.made, strings.Join(s.errors[:min(5, len(s.errors))], "; "))
	}
	s.made, s.worst, s.errors = 0, 0, nil
}

// shortTo reads one line, then ends the connection by a reset.
func shortTo(ctx context.Context, dial func(ctx context.Context, network, address string) (net.Conn, error), address string) error {
	limit, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	conn, err := dial(limit, "tcp4", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err == nil && line != "hello\n" {
		err = fmt.Errorf("the answer is %q", line)
	}
	return err
}
