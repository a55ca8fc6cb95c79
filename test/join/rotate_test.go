package join_test

import (
	"crypto/tls"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/test/bed"
)

// rotating returns how long to watch certificates; NODEAGENT_ROTATE=15m makes it longer.
func rotating(t *testing.T) time.Duration {
	if text := os.Getenv("NODEAGENT_ROTATE"); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	return 100 * time.Second
}

const rotatePods = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: many}
spec:
  replicas: %d
  selector: {matchLabels: {app: many}}
  template:
    metadata: {labels: {app: many}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: c
        image: ` + bed.Busybox + `
        command: [sleep, "100000"]
        readinessProbe: {exec: {command: ["true"]}, periodSeconds: 5, timeoutSeconds: 10}
`

// TestRotation: certificates that are valid for a minute are renewed under pods: the node stays
// Ready, no request is refused, and the node's API works all the time. The serving certificate
// waits for its approval, which `nodeagent status` shows, and is used once it is approved.
func TestRotation(t *testing.T) {
	bed.Require(t)
	ctx := t.Context()
	// the signer dates certificates back by five minutes: this is their validity from now on
	c := bed.New(t, bed.Options{
		Nodes:          []bed.Kind{bed.NodeAgent{Config: "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nserverTLSBootstrap: true\n"}},
		ControllerArgs: []string{"--cluster-signing-duration=80s"},
	})
	n := c.Nodes()[0]
	kubectl := func(args ...string) string {
		t.Helper()
		out, err := c.Kubectl(ctx, args...)
		if err != nil {
			t.Fatalf("kubectl %v: %v", args, err)
		}
		return strings.TrimSpace(out)
	}
	if err := n.WaitReady(ctx, 3*time.Minute); err != nil {
		t.Fatal(err)
	}
	status, err := n.Output(ctx, "nodeagent", "status")
	name := regexp.MustCompile(`serving certificate request (\S+) waits`).FindStringSubmatch(status)
	if err != nil || name == nil {
		t.Fatalf("status does not name the pending request: %v\n%s", err, status)
	}
	if issuer := shown(t, n); strings.Contains(issuer, "kubernetes") {
		t.Errorf("before the approval the certificate is by %q", issuer)
	}
	kubectl("certificate", "approve", name[1])
	deadline := time.Now().Add(2 * time.Minute)
	for !strings.Contains(shown(t, n), "kubernetes") {
		if time.Now().After(deadline) {
			t.Fatalf("after the approval the certificate is by %q", shown(t, n))
		}
		time.Sleep(200 * time.Millisecond)
	}
	if err := n.LoadImages(ctx, bed.Busybox); err != nil {
		t.Fatal(err)
	}
	replicas := 10
	if os.Getenv("NODEAGENT_ROTATE") != "" {
		replicas = 20
	}
	if err := c.Apply(ctx, fmt.Sprintf(rotatePods, replicas)); err != nil {
		t.Fatal(err)
	}
	kubectl("rollout", "status", "deployment/many", "--timeout=240s")
	const ready = `jsonpath={.status.conditions[?(@.type=="Ready")].status} {.status.conditions[?(@.type=="Ready")].lastTransitionTime}`
	const file = "/var/lib/kubelet/pki/kubelet-client-current.pem"
	// requests of the start do not count: the node authorizer learns of a pod a moment later than
	// its node
	page := "/api/v1/nodes/" + n.Name + "/proxy/metrics"
	goodBefore, refusedBefore, failedBefore := requests(t, kubectl("get", "--raw", page))
	before, seen := kubectl("get", "node", n.Name, "-o", ready), map[string]bool{}
	for end := time.Now().Add(rotating(t)); time.Now().Before(end); time.Sleep(2 * time.Second) {
		if now := kubectl("get", "node", n.Name, "-o", ready); now != before || !strings.HasPrefix(now, "True") {
			t.Fatalf("the node was %q and is %q", before, now)
		}
		link, err := os.Readlink(n.Path(file))
		if err != nil {
			t.Fatal(err)
		}
		seen[link] = true
		if got := kubectl("get", "deployment", "many", "-o", "jsonpath={.status.readyReplicas}"); got != fmt.Sprint(replicas) {
			t.Errorf("%s pods are ready", got)
		}
	}
	t.Logf("%d certificates in %s", len(seen), rotating(t))
	if want := int(rotating(t) / (80 * time.Second)); len(seen) <= want {
		t.Errorf("%d certificates in %s, each of 80 s", len(seen), rotating(t))
	}
	log, err := os.ReadFile(n.Process("nodeagent").Log())
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(log)) {
		// not by the number: a duration may have it, and requests counts the answers by code
		if regexp.MustCompile(`(?i)unauthorized|expired|level=ERROR`).MatchString(line) {
			t.Errorf("the agent was refused something: %s", line)
		}
	}
	good, refused, failed := requests(t, kubectl("get", "--raw", page))
	good, refused, failed = good-goodBefore, refused-refusedBefore, failed-failedBefore
	t.Logf("requests to the API server meanwhile: %d good, %d refused, %d failed", good, refused, failed)
	if good <= 0 || refused > 0 || failed > good/50 { // an API server without time to answer is no fault of certificates
		t.Errorf("requests meanwhile: %d good, %d refused, %d failed", good, refused, failed)
	}
	kubectl("scale", "deployment/many", "--replicas=0")
	kubectl("wait", "--for=delete", "pod", "-l", "app=many", "--timeout=180s")
}

// requests counts what the agent has asked of the API server: what succeeded, what the server
// refused for the agent's credentials, and what failed otherwise.
func requests(t *testing.T, metrics string) (good, refused, failed int) {
	t.Helper()
	for _, r := range regexp.MustCompile(`(?m)^rest_client_requests_total\{code="(.*?)".*\} (\d+)$`).FindAllStringSubmatch(metrics, -1) {
		n, err := strconv.Atoi(r[2])
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case strings.HasPrefix(r[1], "2"):
			good += n
		case r[1] == "401" || r[1] == "403":
			refused += n
		default:
			failed += n
		}
	}
	return good, refused, failed
}

// shown returns the issuer of the certificate that the node's API presents.
func shown(t *testing.T, n *bed.Node) string {
	t.Helper()
	raw, err := n.Dial(t.Context(), "tcp", n.IP.String()+":10250")
	if err != nil {
		t.Fatal(err)
	}
	conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true}) // it is looked at, not trusted
	defer conn.Close()
	if err := conn.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return conn.ConnectionState().PeerCertificates[0].Issuer.CommonName
}
