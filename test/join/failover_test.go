package join_test

import (
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/test/bed"
)

// way is one address of the API server: a forwarder that can be cut, or go silent.
type way struct {
	address string
	mu      sync.Mutex
	cut     bool
	silent  bool
	conns   []net.Conn
}

// newWay forwards an address in the control plane's namespace to the API server.
func newWay(t *testing.T, c *bed.Cluster) *way {
	t.Helper()
	l := listenIn(t, c.NetNS())
	t.Cleanup(func() { _ = l.Close() })
	w := &way{address: "192.168.77.1:" + strconv.Itoa(l.Addr().(*net.TCPAddr).Port)}
	t.Cleanup(func() { w.set(true, false) })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			to, err := c.Dial(t.Context(), "tcp", c.Server())
			w.mu.Lock()
			if err != nil || w.cut {
				_ = conn.Close()
				w.mu.Unlock()
				continue
			}
			w.conns = append(w.conns, conn, to)
			w.mu.Unlock()
			go w.copy(conn, to)
			go w.copy(to, conn)
		}
	}()
	return w
}

// copy forwards until the line is cut; a silent line drops everything.
func (w *way) copy(to, from net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		w.mu.Lock()
		silent := w.silent
		w.mu.Unlock()
		if !silent {
			if _, writeErr := to.Write(buf[:n]); err == nil {
				err = writeErr
			}
		}
		if err != nil {
			if !silent { // a dead line does not tell the other end
				_ = to.Close()
			}
			return
		}
	}
}

// set changes the line. Cutting it drops its connections; connections of a silent line are dropped
// when it comes back.
func (w *way) set(cut, silent bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if cut || (w.silent && !silent) {
		for _, c := range w.conns {
			_ = c.Close()
		}
		w.conns = nil
	}
	w.cut, w.silent = cut, silent
}

// TestFailover: a node that joined with two addresses stays Ready while one of them is cut, and
// later while the other is silent; new pods start all the time.
func TestFailover(t *testing.T) {
	bed.Require(t)
	ctx := t.Context()
	c := bed.New(t, bed.Options{})
	first, second := newWay(t, c), newWay(t, c)
	n, err := c.AddNode(ctx, "n1", bed.NodeAgent{Servers: first.address + "," + second.address})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.WaitReady(ctx, 3*time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := n.LoadImages(ctx, bed.Busybox); err != nil {
		t.Fatal(err)
	}
	kubectl := func(args ...string) string {
		t.Helper()
		out, err := c.Kubectl(ctx, args...)
		if err != nil {
			t.Fatalf("kubectl %v: %v", args, err)
		}
		return strings.TrimSpace(out)
	}
	const ready = `jsonpath={.status.conditions[?(@.type=="Ready")].status} {.status.conditions[?(@.type=="Ready")].lastTransitionTime}`
	before := kubectl("get", "node", n.Name, "-o", ready)
	inUse := func() string {
		t.Helper()
		out, err := n.Output(ctx, "nodeagent", "status")
		if err != nil {
			t.Fatal(err, out)
		}
		return out
	}
	if out := inUse(); !strings.Contains(out, first.address) {
		t.Fatalf("at first another server is in use than %s:\n%s", first.address, out)
	}
	for i, step := range []struct {
		what string
		do   func()
		to   *way
	}{
		{"the first is cut", func() { first.set(true, false) }, second},
		{"the first is back, the second says nothing", func() { first.set(false, false); second.set(false, true) }, first},
	} {
		step.do()
		start := time.Now()
		for !strings.Contains(inUse(), step.to.address) {
			if time.Since(start) > 2*time.Minute {
				t.Fatalf("%s: %s is not in use:\n%s", step.what, step.to.address, inUse())
			}
			time.Sleep(100 * time.Millisecond)
		}
		moved := time.Since(start)
		pod := "pod-" + strconv.Itoa(i)
		kubectl("run", pod, "--image", bed.Busybox, "--image-pull-policy=Never", "--overrides", `{"spec":{"nodeName":"`+n.Name+`","terminationGracePeriodSeconds":0}}`, "--", "sleep", "1000")
		kubectl("wait", "pod", pod, "--for=condition=Ready", "--timeout=180s")
		t.Logf("%s: elsewhere after %s, a pod ran after %s", step.what, moved.Round(time.Millisecond), time.Since(start).Round(time.Millisecond))
	}
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(time.Second) {
		if now := kubectl("get", "node", n.Name, "-o", ready); now != before || !strings.HasPrefix(now, "True") {
			t.Fatalf("the node was %q and is %q", before, now)
		}
	}
}
