package join_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/test/bed"
)

const resetPods = `
apiVersion: v1
kind: Pod
metadata: {name: a, labels: {app: a}}
spec:
  shareProcessNamespace: true
  volumes:
  - {name: scratch, emptyDir: {medium: Memory}}
  containers:
  - {name: c, image: ` + bed.Busybox + `, command: [sleep, "100000"], ports: [{containerPort: 80, hostPort: 8099}], volumeMounts: [{name: scratch, mountPath: /scratch}]}
---
apiVersion: v1
kind: Pod
metadata: {name: b}
spec:
  hostNetwork: true
  containers:
  - {name: c, image: ` + bed.Busybox + `, command: [sleep, "100000"]}
---
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {selector: {app: a}, ports: [{port: 80}]}
`

// traces lists what a machine has that could be the agent's, by the command that finds it.
func traces(ctx context.Context, t *testing.T, n *bed.Node) string {
	t.Helper()
	var all strings.Builder
	for _, command := range []string{
		"ctr -n k8s.io containers ls -q", "ctr -n k8s.io tasks ls -q", "ctr -n k8s.io snapshots ls | awk '$3 == \"Active\" {print $1}'",
		"ctr -n k8s.io images ls -q",
		"find /var/lib/kubelet /run/nodeagent /etc/kubernetes /etc/nodeagent /etc/default/nodeagent /var/log/pods /var/log/containers -type f -o -type l -o -type s",
		"find /var/lib/cni -type f | grep -v -e last_reserved_ip -e lock",
		"awk '{print $5}' /proc/self/mountinfo | grep -e kubelet/ -e nodeagent/",
		"iptables-save | grep -v -e '^#' -e '^:[A-Z]* [A-Z]* ' -e '^[*]' -e COMMIT | grep -v -e CNI-HOSTPORT -e CNI-[0-9a-f]",
		"find /sys/fs/cgroup/*/" + n.Cgroup() + " -type d | grep kubepods",
		"ps -eo comm | grep nodeagent",
	} {
		out, err := n.Output(ctx, "sh", "-c", "("+command+") 2>/dev/null | sort || true")
		if err != nil {
			t.Fatalf("%s: %v", command, err)
		}
		all.WriteString("# " + command + "\n" + out + "\n")
	}
	return all.String()
}

// stable returns the traces once they have not changed for 3 s: rules and cgroups follow a pod's
// readiness by a moment.
func stable(ctx context.Context, t *testing.T, n *bed.Node) string {
	t.Helper()
	last, since := traces(ctx, t, n), time.Now()
	for deadline := time.Now().Add(3 * time.Minute); time.Since(since) < 3*time.Second; time.Sleep(200 * time.Millisecond) {
		if now := traces(ctx, t, n); now != last {
			last, since = now, time.Now()
		}
		if time.Now().After(deadline) {
			t.Fatalf("the node does not become stable:\n%s", last)
		}
	}
	return last
}

// TestReset: a reset restores a node with pods, volumes, rules and host ports, touches nothing of
// others, finds nothing the second time, and leaves a machine that can join again.
func TestReset(t *testing.T) {
	bed.Require(t)
	ctx := t.Context()
	c := bed.New(t, bed.Options{Nodes: []bed.Kind{bed.Bare{}}})
	programs, err := bed.Programs(ctx, c.Builder())
	if err != nil {
		t.Fatal(err)
	}
	n := c.Nodes()[0]
	program := filepath.Join(programs, "nodeagent")
	nodeagent := func(args ...string) (string, error) { return n.Output(ctx, program, args...) }
	if out, err := nodeagent("reset", "--yes"); err != nil || !strings.Contains(out, "nothing of nodeagent is on this machine") {
		t.Fatalf("on a machine without it: %v\n%s", err, out)
	}
	for _, command := range []string{
		// a rule that is not ours,
		"iptables -t nat -N MINE && iptables -t nat -A OUTPUT -d 203.0.113.1 -j MINE",
		"mkdir -p /var/lib/kubelet/other /etc/kubernetes && echo x >/var/lib/kubelet/other/file && echo y >/etc/kubernetes/mine.conf",
	} {
		if out, err := n.Output(ctx, "sh", "-c", command); err != nil {
			t.Fatal(err, out)
		}
	}
	if err := n.LoadImages(ctx, bed.Busybox); err != nil {
		t.Fatal(err)
	}
	before := traces(ctx, t, n)
	join := []string{"join", c.Server(), "--token", c.Token(), "--discovery-token-ca-cert-hash", c.CAHash(), "--no-start"}
	if out, err := nodeagent(join...); err != nil {
		t.Fatal(err, out)
	}
	agent, err := n.Start(bed.Spec{Name: "nodeagent", Path: program, Args: []string{"run", "--config", "/etc/nodeagent", "--node-ip", n.IP.String()}})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.WaitReady(ctx, 3*time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := c.Apply(ctx, resetPods); err != nil {
		t.Fatal(err)
	}
	if out, err := c.Kubectl(ctx, "wait", "--for=condition=Ready", "pod/a", "pod/b", "--timeout=180s"); err != nil {
		t.Fatal(err, out)
	}
	busy := stable(ctx, t, n)
	if out, err := nodeagent("reset", "--yes"); err == nil || !strings.Contains(err.Error()+out, "still runs") || traces(ctx, t, n) != busy {
		t.Errorf("with the agent running: %v\n%s\n--- traces before\n%s--- and now\n%s", err, out, busy, traces(ctx, t, n))
	}
	if out, err := nodeagent("reset", "--dry-run"); err != nil || !strings.Contains(out, "remove container c of pod default/a") || traces(ctx, t, n) != busy {
		t.Errorf("dry run with the agent running: %v\n%s\n--- traces before\n%s--- and now\n%s", err, out, busy, traces(ctx, t, n))
	}
	if err := agent.Stop(30 * time.Second); err != nil {
		t.Fatal(err)
	}
	if out, err := nodeagent("reset"); err == nil || !strings.Contains(out+err.Error(), "[y/N]") || !strings.Contains(traces(ctx, t, n), "sandboxes/") {
		t.Errorf("without an answer: %v\n%s", err, out)
	}
	out, err := nodeagent("reset", "--yes")
	t.Logf("reset:\n%s", out)
	if err != nil {
		t.Fatal(err)
	}
	if after := traces(ctx, t, n); after != before {
		t.Errorf("the machine is not as it was:\n--- before\n%s\n--- after\n%s", before, after)
	}
	if out, err := nodeagent("reset", "--yes"); err != nil || !strings.Contains(out, "nothing of nodeagent is on this machine") {
		t.Errorf("a second time: %v\n%s", err, out)
	}
	if out, err := nodeagent("reset", "--yes", "--images"); err != nil || !strings.Contains(out, "remove image "+bed.Busybox) {
		t.Errorf("with images: %v\n%s", err, out)
	}
	if out, err := c.Kubectl(ctx, "delete", "node", n.Name); err != nil {
		t.Fatal(err, out)
	}
	if out, err := nodeagent(join...); err != nil {
		t.Errorf("joining again: %v\n%s", err, out)
	}
}

// TestPreflight: preflight reports all problems of a machine at once, each with its remedy and in
// join's words; problems ignored by name do not count.
func TestPreflight(t *testing.T) {
	m := newMachine(t)
	ctx := t.Context()
	preflight := func(args ...string) (string, int) { return m.verb("preflight", args...) }
	if out, code := preflight(m.c.Server()); code != 0 || !strings.Contains(out, "containerd 2.") || !strings.Contains(out, "API server v1.36") || !strings.Contains(out, "fit to join") {
		t.Fatalf("on a machine that is fit: exit %d\n%s", code, out)
	}
	listener, err := m.node.Start(bed.Spec{Name: "listener", Path: "/bin/sh", Args: []string{"-c", "exec socat TCP-LISTEN:10250,fork -"}})
	if err != nil {
		t.Fatal(err)
	}
	bin := m.node.Path("/etc/cni/net.d/00-odd.conflist")
	if err := os.WriteFile(bin, []byte(`{"cniVersion":"1.0.0","name":"odd","plugins":[{"type":"no-such-plugin","ipam":{"type":"host-local"}}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	const listens = "for i in $(seq 600); do grep -q ':280A .* 0A ' /proc/net/tcp /proc/net/tcp6 && exit; sleep 0.1; done; exit 1"
	if out, err := m.node.Output(ctx, "sh", "-c", listens); err != nil {
		t.Fatalf("nothing listens on port 10250: %v %s", err, out)
	}
	for _, c := range []struct {
		name  string
		check string
		code  int
		says  string
		args  []string
	}{
		{"no containerd", "containerd", 10, "systemctl enable --now containerd", []string{"--containerd-address", "/nowhere"}},
		{"no such snapshotter", "snapshotter", 10, "modprobe overlay", []string{"--snapshotter", "none"}},
		{"a port in use", "ports", 10, "10250", nil},
		{"a CNI plugin is missing", "cni", 10, "no-such-plugin", nil},
		{"no CNI plugins", "cni", 10, "install the CNI plugins", []string{"--cni-bin-dir", "/nowhere"}},
		{"cgroups by a systemd that is not there", "cgroup", 10, "cgroupfs", []string{"--cgroup-driver", "systemd"}},
		{"cgroup v1 refused", "cgroup", 10, "systemd.unified_cgroup_hierarchy", []string{"--fail-cgroupv1"}},
		{"no API server", "api-server", 11, "curl -k", []string{"192.168.77.1:1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			others := slices.DeleteFunc([]string{"ports", "cni"}, func(s string) bool { return s == c.check })
			out, code := preflight(append(c.args, "--ignore", strings.Join(others, ","))...)
			if code != c.code || !strings.Contains(out, c.says) || !strings.Contains(out, "FAILED") || !strings.Contains(out, "--ignore "+c.check) {
				t.Errorf("exit %d, want %d and %q", code, c.code, c.says)
			}
			if c.code == 10 {
				if out, code := m.run("", append(append(c.args, m.good()...), "--ignore", strings.Join(others, ","))...); code != 10 || !strings.Contains(out, c.says) || m.joined() {
					t.Errorf("join: exit %d, want the same", code)
				}
			}
			if out, code := preflight(append(c.args, "--ignore", "ports,cni,"+c.check)...); code != 0 || !strings.Contains(out, "ignored") {
				t.Errorf("ignored: exit %d", code)
			}
		})
	}
	if out, code := preflight("--containerd-address", "/nowhere"); code != 10 || !strings.Contains(out, "--ignore containerd,cni,ports") {
		t.Errorf("all at once: exit %d", code)
	}
	if err := listener.Stop(30 * time.Second); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(bin); err != nil {
		t.Fatal(err)
	}
	t.Run("host name", func(t *testing.T) {
		if _, err := m.node.Output(ctx, "sh", "-c", "echo Not_A_Name >/proc/sys/kernel/hostname"); err != nil {
			t.Fatal(err)
		}
		out, code := preflight()
		if code != 10 || !strings.Contains(out, "hostnamectl") || !strings.Contains(out, "containerd 2.") {
			t.Errorf("exit %d", code)
		}
		if out, code := m.run("", m.good()...); code != 10 || !strings.Contains(out, "hostnamectl") {
			t.Errorf("join: exit %d", code)
		}
		if _, code := preflight("--node-name", "n1"); code != 0 {
			t.Errorf("with a name given: exit %d", code)
		}
		if _, err := m.node.Output(ctx, "hostname", m.node.Name); err != nil {
			t.Fatal(err)
		}
	})
	if _, code := m.run("", m.good()...); code != 0 {
		t.Errorf("joining after all that: exit %d", code)
	}
}
