// Package e2e_test tests the whole product on a real cluster: what a user does and sees, and what
// is left afterwards.
package e2e_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/nodeagent/nodeagent/test/bed"
)

// place is a node under test, on whichever kind of machine.
type place struct {
	bed.NodeNet
	cluster *bed.Cluster
	client  kubernetes.Interface
	// run runs a program on the node.
	run func(ctx context.Context, args ...string) (string, error)
}

// kubectl fails the test on error.
func (p place) kubectl(ctx context.Context, t *testing.T, args ...string) string {
	t.Helper()
	out, err := p.cluster.Kubectl(ctx, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// on runs a program on the node and fails the test on error.
func (p place) on(ctx context.Context, t *testing.T, args ...string) string {
	t.Helper()
	out, err := p.run(ctx, args...)
	if err != nil {
		t.Fatalf("%s on %s: %v\n%s", strings.Join(args, " "), p.Name, err, out)
	}
	return out
}

// soon is how long to wait for what takes a moment. It is far more than that, so that a busy
// machine fails no test; a test that measures logs its figures.
const soon = 2 * time.Minute

// eventually polls ask until it returns true, or fails the test with the last answer.
func eventually(ctx context.Context, t *testing.T, limit time.Duration, what string, ask func() (bool, string)) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		ok, said := ask()
		if ok {
			return
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			t.Fatalf("%s: not within %s; last answer: %s", what, limit, said)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// newPlace starts a cluster with one node that runs the agent, and waits until it is Ready.
func newPlace(ctx context.Context, t *testing.T, agent bed.Kind) (place, *bed.Node) {
	t.Helper()
	c := bed.New(t, bed.Options{Nodes: []bed.Kind{agent}})
	n := c.Nodes()[0]
	if err := n.LoadImages(ctx, bed.Busybox); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := n.WaitReady(ctx, 3*time.Minute); err != nil {
		t.Fatal(err)
	}
	t.Logf("Ready %s after the images were there", time.Since(begin).Round(time.Millisecond))
	return place{NodeNet: n.NodeNet, cluster: c, client: clientOf(t, c), run: func(ctx context.Context, args ...string) (string, error) {
		return n.Output(ctx, args[0], args[1:]...)
	}}, n
}

func clientOf(t *testing.T, c *bed.Cluster) kubernetes.Interface {
	t.Helper()
	client, err := c.Client()
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// web is a Deployment that answers with its pod's name, and a NodePort Service in front of it.
func web(replicas int) string {
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: %d
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: web
        image: %s
        command: [sh, -c]
        args: ["mkdir -p /www; echo hello from $HOSTNAME > /www/index.html; echo serving; trap 'exit 0' TERM; httpd -f -p 8080 -h /www & wait"]
        ports: [{containerPort: 8080}]
        resources: {limits: {memory: 64Mi, cpu: 200m}, requests: {cpu: 1m, memory: 16Mi}}
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
        livenessProbe: {tcpSocket: {port: 8080}}
        volumeMounts: [{name: config, mountPath: /config}, {name: scratch, mountPath: /scratch}]
      volumes:
      - {name: config, configMap: {name: web}}
      - {name: scratch, emptyDir: {}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: web}
data: {greeting: hello}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]
`, replicas, bed.Busybox)
}
