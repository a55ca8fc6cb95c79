package bed_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeagent/nodeagent/test/bed"
)

// TestPeer tests the bed with upstream's own programs: two nodes, a Deployment behind a Service,
// cluster DNS, logs and exec. A failure here is the bed's fault.
func TestPeer(t *testing.T) {
	c := bed.New(t, bed.Options{Nodes: []bed.Kind{bed.Peer{}, bed.Peer{}}})
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	if err := c.LoadImages(ctx, bed.Busybox); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Nodes() {
		if err := n.WaitReady(ctx, 3*time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	kubectl := func(args ...string) string {
		t.Helper()
		out, err := c.Kubectl(ctx, args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if err := c.Apply(ctx, fmt.Sprintf(webManifest, bed.Busybox)); err != nil {
		t.Fatal(err)
	}
	kubectl("rollout", "status", "deployment/web", "--timeout=180s")
	kubectl("run", "client", "--image="+bed.Busybox, "--restart=Never", "--", "sleep", "100000")
	kubectl("wait", "--for=condition=Ready", "pod/client", "--timeout=180s")

	// A Ready pod is not yet part of its Service: kube-proxy and the cluster's DNS learn of it a
	// moment later.
	ask := "for i in 1 2 3 4 5 6; do timeout 5 wget -qO- http://web && exit; done; exit 1"
	if got := kubectl("exec", "client", "--", "sh", "-c", ask); !strings.HasPrefix(got, "hello from web-") {
		t.Errorf("the Service answers %q by name", got)
	}
	ip := kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
	for _, n := range c.Nodes() {
		for _, address := range []string{ip, n.IP.String() + ":30080"} {
			got, err := n.Output(ctx, "sh", "-c", strings.ReplaceAll(strings.ReplaceAll(ask, "wget", "busybox wget"), "http://web", "http://"+address))
			if err != nil || !strings.HasPrefix(got, "hello from web-") {
				t.Errorf("%s answers %q, %v from node %s", address, got, err, n.Name)
			}
		}
	}
	if got := kubectl("logs", "deployment/web", "--tail=1"); got != "serving\n" {
		t.Errorf("the log is %q", got)
	}
	countPods(ctx, t, c)

	if err := c.Stop(ctx); err != nil {
		t.Error(err)
	}
	if left := traces(t, c.ID()); len(left) > 0 {
		t.Errorf("left behind by a cluster with running pods: %q", left)
	}
}

// countPods uses a client in the test's own process.
func countPods(ctx context.Context, t *testing.T, c *bed.Cluster) {
	t.Helper()
	client, err := c.Client()
	if err != nil {
		t.Fatal(err)
	}
	pods, err := client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(pods.Items) != 4 {
		t.Errorf("the API lists %d pods, wanted 4", len(pods.Items))
	}
}

// TestUML boots a machine with its own kernel and makes it a node.
func TestUML(t *testing.T) {
	c := bed.New(t, bed.Options{})
	u, err := c.AddUML(t.Context(), "u1")
	if err != nil {
		t.Fatal(err)
	}
	for what, command := range map[string]string{
		"reach the API server": "curl -sk --max-time 5 https://" + c.Server() + "/healthz | grep -q ok",
		"resolve a name":       "getent hosts kubernetes.default.svc.cluster.local",
		"have cgroup v2":       "test -e /sys/fs/cgroup/cgroup.controllers",
	} {
		if out, err := u.Output(t.Context(), "bash", "-c", command); err != nil {
			t.Errorf("the machine does not %s: %v %s", what, err, out)
		}
	}
	out, err := u.InstallNodeAgent(t.Context(), bed.NodeAgent{})
	t.Log(out)
	if err != nil {
		t.Fatal(err)
	}
	if err := u.WaitReady(t.Context(), 3*time.Minute); err != nil {
		t.Error(err)
	}
	if err := c.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if left := traces(t, c.ID()); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

const webManifest = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: %s
        command: [sh, -c, 'mkdir -p /tmp/www; echo hello from $(hostname) >/tmp/www/index.html; echo serving; exec httpd -f -p 8080 -h /tmp/www']
        ports: [{containerPort: 8080}]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]
`
