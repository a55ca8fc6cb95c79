package e2e_test

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/test/bed"
)

const manifests = "/etc/kubernetes/manifests"

// static is a manifest as people write them.
func static(name string) []byte {
	return []byte(`
apiVersion: v1
kind: Pod
metadata: {name: ` + name + `, namespace: kube-system}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers:
  - {name: c, image: "` + bed.Busybox + `", command: [sleep, "100000"]}
`)
}

// TestStaticPods runs pods from manifests: they have mirror pods, which come back when deleted;
// they start without the API server; and they end with their manifest.
func TestStaticPods(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	p, n := newPlace(ctx, t, bed.NodeAgent{})
	phase := func(name string) string {
		out, err := p.cluster.Kubectl(ctx, "get", "pod", "-n", "kube-system", name+"-"+p.Name, "-o", "jsonpath={.status.phase} {.metadata.annotations}")
		if err != nil {
			return err.Error()
		}
		return out
	}
	running := func(name string) {
		t.Helper()
		eventually(ctx, t, soon, "the mirror of "+name, func() (bool, string) {
			got := phase(name)
			return strings.HasPrefix(got, "Running") && strings.Contains(got, "kubernetes.io/config.mirror"), got
		})
	}
	containers := func() int {
		return strings.Count(p.on(ctx, t, "ctr", "-n", "k8s.io", "tasks", "ls"), "RUNNING")
	}
	if err := n.WriteFile(manifests+"/one.yaml", static("one"), 0o644); err != nil {
		t.Fatal(err)
	}
	running("one")
	p.kubectl(ctx, t, "delete", "pod", "-n", "kube-system", "one-"+p.Name, "--wait=false")
	running("one")
	if got := containers(); got != 1 {
		t.Errorf("%d containers run after the mirror was deleted, want the one that ran before", got)
	}

	server := p.cluster.Process("kube-apiserver")
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	agent := n.Process("nodeagent")
	if err := agent.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := n.WriteFile(manifests+"/two.yaml", static("two"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(ctx, t, soon, "a static pod without an API server", func() (bool, string) {
		return containers() == 2, p.on(ctx, t, "ctr", "-n", "k8s.io", "tasks", "ls")
	})
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	if err := p.cluster.WaitAPI(ctx); err != nil {
		t.Fatal(err)
	}
	running("two")
	for _, name := range []string{"one", "two"} {
		if err := os.Remove(n.Path(manifests + "/" + name + ".yaml")); err != nil {
			t.Fatal(err)
		}
	}
	eventually(ctx, t, soon, "the end of the static pods", func() (bool, string) {
		return containers() == 0 && strings.Contains(phase("one")+phase("two"), "NotFound"), phase("one") + phase("two")
	})
}
