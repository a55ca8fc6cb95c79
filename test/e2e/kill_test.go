package e2e_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeagent/nodeagent/test/bed"
)

// crowd is how many pods run while something is killed.
const crowd = 20

// counters are pods that print five numbers a second and answer probes, and an echo server with a
// Service.
func counters() string {
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: counter}
spec:
  replicas: %d
  selector: {matchLabels: {app: counter}}
  template:
    metadata: {labels: {app: counter}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: counter
        image: %[2]s
        command: [sh, -c, "mkdir /www; echo ok > /www/index.html; httpd -p 8080 -h /www; i=0; while true; do i=$((i+1)); echo $i; sleep 0.2; done"]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1, timeoutSeconds: 10}
        livenessProbe: {tcpSocket: {port: 8080}, periodSeconds: 2, timeoutSeconds: 10}
        startupProbe: {exec: {command: ["true"]}, timeoutSeconds: 10}
---
apiVersion: v1
kind: Pod
metadata: {name: echo, labels: {app: echo}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: echo, image: %[2]s, command: [sh, -c, "while true; do nc -l -p 7000 -e cat; done"]}
---
apiVersion: v1
kind: Service
metadata: {name: echo}
spec:
  selector: {app: echo}
  ports: [{port: 7, targetPort: 7000}]
`, crowd, bed.Busybox)
}

// TestKills kills the agent, containerd, the API server and the log pump, one after the other,
// under a crowd of pods: no container restarts, no log line is lost, no condition flips, no
// connection drops.
func TestKills(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 12*time.Minute)
	defer cancel()
	p, n := newPlace(ctx, t, bed.NodeAgent{})
	if err := p.cluster.Apply(ctx, counters()); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	p.kubectl(ctx, t, "rollout", "status", "deployment/counter", "--timeout=240s")
	t.Logf("%d pods were Ready after %s", crowd, time.Since(begin).Round(time.Millisecond))
	p.kubectl(ctx, t, "wait", "--for=condition=Ready", "pod/echo", "--timeout=180s")
	conn := dialEcho(ctx, t, p, n)
	before := stateOf(ctx, t, p)

	for _, k := range []struct {
		what string
		kill func() error
	}{
		{"agent", func() error {
			agent := n.Process("nodeagent")
			if err := agent.Kill(); err != nil {
				return err
			}
			time.Sleep(3 * time.Second) // pods go on counting and talking without an agent
			return agent.Start()
		}},
		{"containerd", func() error { return n.RestartContainerd(ctx) }},
		{"kube-apiserver", func() error {
			server := p.cluster.Process("kube-apiserver")
			if err := server.Kill(); err != nil {
				return err
			}
			if err := server.Start(); err != nil {
				return err
			}
			return p.cluster.WaitAPI(ctx)
		}},
		{"log pump", func() error {
			_, err := n.Output(ctx, "sh", "-c", `for p in /proc/[0-9]*; do [ "$(readlink $p/exe)" ] && case "$(readlink $p/exe)" in */nodeagent-pump) tr '\0' ' ' <$p/cmdline | grep -q ' logs' && kill -9 ${p#/proc/};; esac; done; true`)
			return err
		}},
	} {
		begin := time.Now()
		if err := k.kill(); err != nil {
			t.Fatalf("killing %s: %v", k.what, err)
		}
		echo(t, conn, "after "+k.what)
		// Long enough for a probe period and several status intervals, in which a wrong conclusion
		// would be reported.
		time.Sleep(12 * time.Second)
		echo(t, conn, "later")
		if now := stateOf(ctx, t, p); now != before {
			t.Errorf("after kill -9 of %s:\n%s", k.what, changedLines(before, now))
			before = now
		}
		lines := contiguous(t, n, k.what == "log pump")
		t.Logf("kill -9 of %s: %d log lines of %d pods without a gap, connection alive; took %s",
			k.what, lines, crowd, time.Since(begin).Round(time.Millisecond))
	}
	// The pods can still be removed.
	p.kubectl(ctx, t, "delete", "deployment", "counter")
	p.kubectl(ctx, t, "wait", "--for=delete", "pod", "-l", "app=counter", "--timeout=180s")
}

// dialEcho opens a connection from the node's network through the Service.
func dialEcho(ctx context.Context, t *testing.T, p place, n *bed.Node) net.Conn {
	t.Helper()
	ip := p.kubectl(ctx, t, "get", "service", "echo", "-o", "jsonpath={.spec.clusterIP}")
	cmd := n.Command(ctx, "busybox", "nc", ip, "7")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	ours, theirs := net.Pipe()
	go func() {
		b := make([]byte, 4096)
		for {
			k, err := theirs.Read(b)
			if err != nil {
				return
			}
			if _, err := in.Write(b[:k]); err != nil {
				_ = theirs.Close()
				return
			}
		}
	}()
	go func() {
		b := make([]byte, 4096)
		for {
			k, err := out.Read(b)
			if err != nil {
				_ = theirs.Close()
				return
			}
			if _, err := theirs.Write(b[:k]); err != nil {
				return
			}
		}
	}()
	echo(t, ours, "hello")
	return ours
}

// echo sends a line over the connection and reads it back.
func echo(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte(text + "\n")); err != nil {
		t.Fatalf("the connection through the Service: %v", err)
	}
	got, err := bufio.NewReader(c).ReadString('\n')
	if err != nil || got != text+"\n" {
		t.Fatalf("the connection through the Service says %q, %v; want %q", got, err, text)
	}
}

// stateOf lists all that must not change: ids, restarts, start times and condition transitions of
// pods and node.
func stateOf(ctx context.Context, t *testing.T, p place) string {
	t.Helper()
	var lines []string
	pods, err := p.client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, pod := range pods.Items {
		line := fmt.Sprintf("%s %s %s", pod.Name, pod.Status.Phase, pod.Status.PodIP)
		for _, c := range pod.Status.ContainerStatuses {
			line += fmt.Sprintf(" %s restarts=%d ready=%v", c.ContainerID, c.RestartCount, c.Ready)
			if c.State.Running != nil {
				line += " since " + c.State.Running.StartedAt.Format(time.RFC3339)
			}
		}
		for _, c := range pod.Status.Conditions {
			line += fmt.Sprintf(" %s=%s@%s", c.Type, c.Status, c.LastTransitionTime.Format(time.RFC3339))
		}
		lines = append(lines, line)
	}
	node, err := p.client.CoreV1().Nodes().Get(ctx, p.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			lines = append(lines, fmt.Sprintf("node %s=%s@%s", c.Type, c.Status, c.LastTransitionTime.Format(time.RFC3339)))
		}
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n") + "\n"
}

// changedLines returns the lines that only one of the texts has.
func changedLines(before, now string) string {
	var out strings.Builder
	for _, side := range []struct{ sign, of, in string }{{"- ", before, now}, {"+ ", now, before}} {
		for line := range strings.Lines(side.of) {
			if !strings.Contains(side.in, line) {
				out.WriteString(side.sign + line)
			}
		}
	}
	return out.String()
}

// contiguous checks that every counter's log has every number in order, and returns how many there
// are. Each is there once, except that after a kill of the log pump the next pump may write the
// last lines again.
func contiguous(t *testing.T, n *bed.Node, repeated bool) int {
	t.Helper()
	files, err := filepath.Glob(n.Path("/var/log/pods/default_counter-*/counter/0.log"))
	if err != nil || len(files) != crowd {
		t.Fatalf("%d log files, want %d: %v", len(files), crowd, err)
	}
	total := 0
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		want := 0
		for line := range strings.Lines(string(b)) {
			want++
			fields := strings.Fields(line)
			if !strings.HasSuffix(line, "\n") {
				break // being written
			}
			got, err := strconv.Atoi(fields[len(fields)-1])
			if repeated && err == nil && got > 0 && got < want {
				want = got
			}
			if err != nil || got != want {
				t.Fatalf("%s: line %d says %q", name, want, line)
			}
		}
		if want < 20 {
			t.Errorf("%s has only %d lines", name, want)
		}
		total += want
	}
	return total
}
