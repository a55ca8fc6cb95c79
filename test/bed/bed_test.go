package bed_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/test/bed"
)

// TestPeer proves the bed with upstream's own programs: two nodes, a Deployment behind a Service, cluster DNS, logs
// and exec. What fails here is the bed's fault.
func TestPeer(t *testing.T) {
	c := bed.New(t, bed.Options{Nodes: []bed.Kind{bed.Peer{}, bed.Peer{}}})
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if err := c.LoadImages(ctx, bed.Busybox); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Nodes() {
		if err := n.WaitReady(ctx, time.Minute); err != nil {
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
	kubectl("rollout", "status", "deployment/web", "--timeout=90s")
	kubectl("run", "client", "--image="+bed.Busybox, "--restart=Never", "--", "sleep", "100000")
	kubectl("wait", "--for=condition=Ready", "pod/client", "--timeout=60s")

	if got := kubectl("exec", "client", "--", "timeout", "5", "wget", "-qO-", "http://web"); !strings.HasPrefix(got, "hello from web-") {
		t.Errorf("the Service answers %q by name", got)
	}
	ip := kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
	for _, n := range c.Nodes() {
		for _, address := range []string{ip, n.IP.String() + ":30080"} {
			got, err := n.Output(ctx, "busybox", "timeout", "5", "wget", "-qO-", "http://"+address)
			if err != nil || !strings.HasPrefix(got, "hello from web-") {
				t.Errorf("%s answers %q, %v from node %s", address, got, err, n.Name)
			}
		}
	}
	if got := kubectl("logs", "deployment/web", "--tail=1"); got != "serving\n" {
		t.Errorf("the log is %q", got)
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
