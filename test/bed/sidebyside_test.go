package bed_test

import (
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/test/bed"
)

// kubepods lists the parent cgroups of pods, of this machine or of one node.
func kubepods(t *testing.T, below string) []string {
	t.Helper()
	var out []string
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		found, err := filepath.Glob(filepath.Join(pattern, below, "kubepods*"))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, found...)
	}
	return out
}

// podCgroups counts the cgroups of a node's pods.
func podCgroups(t *testing.T, n *bed.Node) (count int) {
	t.Helper()
	for _, dir := range kubepods(t, n.Cgroup()) {
		err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), "pod") {
				count++
			}
			return nil // a cgroup that went while we looked does not count
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return count
}

// TestSideBySide runs two clusters at once, with the same addresses and the same pod. One agent is
// started on a bare node without settings for cgroups; then its node is reset and a sweep runs. The
// other cluster is not affected.
func TestSideBySide(t *testing.T) {
	ctx := t.Context()
	shared := kubepods(t, "")
	a := bed.New(t, bed.Options{Nodes: []bed.Kind{bed.NodeAgent{}}})
	b := bed.New(t, bed.Options{Nodes: []bed.Kind{bed.Bare{}}})
	programs, err := bed.Programs(ctx, b.Builder())
	if err != nil {
		t.Fatal(err)
	}
	node, program := b.Nodes()[0], filepath.Join(programs, "nodeagent")
	if out, err := node.Output(ctx, program, "join", b.Server(), "--token", b.Token(), "--discovery-token-ca-cert-hash", b.CAHash(), "--no-start"); err != nil {
		t.Fatal(err, out)
	}
	agent, err := node.Start(bed.Spec{Name: "nodeagent", Path: program, Args: []string{"run", "--config", "/etc/nodeagent", "--node-ip", node.IP.String(), "--proxier=off"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*bed.Cluster{a, b} {
		if err := c.Nodes()[0].LoadImages(ctx, bed.Busybox); err != nil {
			t.Fatal(err)
		}
		if err := c.Nodes()[0].WaitReady(ctx, 3*time.Minute); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Kubectl(ctx, "run", "whose", "--image="+bed.Busybox, "--restart=Never", "--env=ID="+c.ID(), "--", "sleep", "100000"); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []*bed.Cluster{a, b} {
		if out, err := c.Kubectl(ctx, "wait", "--for=condition=Ready", "pod/whose", "--timeout=180s"); err != nil {
			t.Fatal(err, out)
		}
		if podCgroups(t, c.Nodes()[0]) == 0 {
			t.Errorf("the pod of cluster %s has no cgroup below its node's own", c.ID())
		}
	}
	if now := kubepods(t, ""); len(now) > len(shared) {
		t.Errorf("a node uses the machine's own cgroup root: %q", now)
	}
	before := podCgroups(t, a.Nodes()[0])
	if err := agent.Stop(30 * time.Second); err != nil {
		t.Fatal(err)
	}
	if out, err := node.Output(ctx, program, "reset", "--yes"); err != nil {
		t.Fatal(err, out)
	}
	if left := podCgroups(t, node); left > 0 {
		t.Errorf("reset left %d cgroups of pods", left)
	}
	if err := bed.Sweep(ctx); err != nil {
		t.Error(err)
	}
	if after := podCgroups(t, a.Nodes()[0]); after != before {
		t.Errorf("the reset of a node of another cluster changed %d cgroups of pods to %d", before, after)
	}
	if got, err := a.Kubectl(ctx, "exec", "whose", "--", "sh", "-c", "echo $ID"); err != nil || strings.TrimSpace(got) != a.ID() {
		t.Errorf("cluster %s answers %q, %v", a.ID(), got, err)
	}
}
