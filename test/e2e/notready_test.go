package e2e_test

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/test/bed"
)

// TestNotReadyReasons removes what a node needs, one thing after the other: the node reports what
// is missing and where, its pods run on, and it becomes Ready again by itself.
func TestNotReadyReasons(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	p, n := newPlace(ctx, t, bed.NodeAgent{})
	p.kubectl(ctx, t, "run", "bystander", "--image="+bed.Busybox, "--restart=Never", "--", "sleep", "100000")
	p.kubectl(ctx, t, "wait", "--for=condition=Ready", "pod/bystander", "--timeout=180s")
	id := p.kubectl(ctx, t, "get", "pod", "bystander", "-o", "jsonpath={.status.containerStatuses[0].containerID}")

	ready := func() string {
		out, err := p.cluster.Kubectl(ctx, "get", "node", p.Name, "-o",
			`jsonpath={range .status.conditions[?(@.type=="Ready")]}{.status} {.message}{end} {.status.conditions[-1:].type}`)
		if err != nil {
			return err.Error()
		}
		return out
	}
	says := func(limit time.Duration, words ...string) {
		t.Helper()
		begin := time.Now()
		eventually(ctx, t, limit, "the Ready condition", func() (bool, string) {
			got := ready()
			for _, w := range words {
				if !strings.Contains(got, w) {
					return false, got
				}
			}
			return strings.HasSuffix(got, " Ready"), got // Ready is the last condition
		})
		t.Logf("after %s: %s", time.Since(begin).Round(100*time.Millisecond), ready())
	}

	conf := n.Path("/etc/cni/net.d")
	files, err := os.ReadDir(conf)
	if err != nil || len(files) == 0 {
		t.Fatalf("CNI configuration: %v, %v", files, err)
	}
	for _, f := range files {
		if err := os.Rename(conf+"/"+f.Name(), conf+"/."+f.Name()+".away"); err != nil {
			t.Fatal(err)
		}
	}
	says(soon, "False", "NetworkPluginNotReady", "/etc/cni/net.d")
	for _, f := range files {
		if err := os.Rename(conf+"/."+f.Name()+".away", conf+"/"+f.Name()); err != nil {
			t.Fatal(err)
		}
	}
	says(soon, "True", "kubelet is posting ready status")

	containerd := n.Process("containerd")
	if err := containerd.Kill(); err != nil {
		t.Fatal(err)
	}
	says(soon, "False", "container runtime is down", bed.ContainerdAddress)
	if err := containerd.Start(); err != nil {
		t.Fatal(err)
	}
	says(soon, "True", "kubelet is posting ready status")
	got := p.kubectl(ctx, t, "get", "pod", "bystander", "-o", "jsonpath={.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}")
	if got != id+" 0" {
		t.Errorf("the pod that was there all along is %q now, was %q", got, id)
	}
}
