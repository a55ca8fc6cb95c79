package join_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/test/bed"
)

// What kubeadm's package contains besides kubeadm (kubernetes/release, cmd/krel/templates): the
// unit, and how kubeadm passes it flags.
const kubeletUnit = `[Unit]
Description=kubelet: The Kubernetes Node Agent
Wants=network-online.target
After=network-online.target
[Service]
ExecStart=/usr/bin/kubelet
Restart=always
StartLimitInterval=0
RestartSec=10
[Install]
WantedBy=multi-user.target
`

const kubeadmDropIn = `[Service]
Environment="KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf"
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
EnvironmentFile=-/etc/default/kubelet
ExecStart=
ExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS
`

const kubeadmPod = `
apiVersion: v1
kind: Pod
metadata: {name: under-kubeadm}
spec:
  volumes:
  - {name: scratch, emptyDir: {medium: Memory}}
  containers:
  - {name: c, image: ` + bed.Busybox + `, command: [sleep, "100000"], volumeMounts: [{name: scratch, mountPath: /scratch}]}
`

// TestKubeadm: the real kubeadm joins a machine whose kubelet is this program, up to its own
// success message; a pod runs; kubeadm reset, then nodeagent reset, restore the machine.
func TestKubeadm(t *testing.T) {
	bed.Require(t)
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	c := bed.New(t, bed.Options{})
	u, err := c.AddUML(ctx, "u1")
	if err != nil {
		t.Fatal(err)
	}
	on := func(args ...string) string {
		t.Helper()
		out, err := u.Output(ctx, args...)
		if err != nil {
			journal, _ := u.Output(ctx, "journalctl", "-u", "kubelet", "-n", "60", "--no-pager", "-o", "cat")
			t.Fatalf("%s: %v\n%s\n%s", strings.Join(args, " "), err, out, journal)
		}
		return out
	}
	programs, err := bed.Programs(ctx, c.Builder())
	if err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{
		filepath.Join(programs, "nodeagent"): "/usr/bin/kubelet", filepath.Join(programs, "nodeagent-pump"): "/usr/bin/nodeagent-pump",
		c.Tools().Get("kubeadm"): "/usr/bin/kubeadm",
	} {
		if err := u.CopyTo(ctx, from, to); err != nil {
			t.Fatal(err)
		}
	}
	on("ln", "-s", "/usr/bin/kubelet", "/usr/bin/nodeagent")
	for path, text := range map[string]string{
		"/etc/systemd/system/kubelet.service": kubeletUnit, "/etc/systemd/system/kubelet.service.d/10-kubeadm.conf": kubeadmDropIn,
		"/etc/default/kubelet": "KUBELET_EXTRA_ARGS=--node-ip=" + u.IP.String() + " --runtime-cgroups=/system.slice/containerd.service" +
			// The bed's PKI is not where kubeadm would put it, and ConfigMap kubelet-config says
			// so.
			" --client-ca-file=/etc/kubernetes/pki/ca.crt\n",
	} {
		if err := u.WriteFile(ctx, path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	on("systemctl", "daemon-reload")
	on("systemctl", "enable", "kubelet")
	if got := on("kubelet", "--version"); !strings.HasPrefix(got, "Kubernetes v1.36.3") {
		t.Errorf("kubelet --version says %q", got)
	}
	before := onMachine(on)
	// This kernel's configuration cannot be read and its machine is small, which this test is not
	// about.
	begin := time.Now()
	out := on("timeout", "300", "kubeadm", "join", c.Server(), "--token", c.Token(), "--discovery-token-ca-cert-hash", c.CAHash(),
		"--ignore-preflight-errors=SystemVerification")
	t.Logf("kubeadm join took %s:\n%s", time.Since(begin).Round(time.Millisecond), out)
	if !strings.Contains(out, "This node has joined the cluster") {
		t.Error("kubeadm does not say that the node has joined")
	}
	if err := c.WaitNodeReady(ctx, u.NodeNet, 3*time.Minute); err != nil {
		t.Fatal(err, on("journalctl", "-u", "kubelet", "-n", "60", "--no-pager", "-o", "cat"))
	}
	if err := c.Apply(ctx, kubeadmPod); err != nil {
		t.Fatal(err)
	}
	if out, err := c.Kubectl(ctx, "wait", "--for=condition=Ready", "pod/under-kubeadm", "--timeout=180s"); err != nil {
		t.Fatal(err, out)
	}
	if got := on("journalctl", "-u", "kubelet", "--no-pager", "-o", "cat"); !strings.Contains(got, "--runtime-cgroups") {
		t.Error("a flag without effect is not warned about")
	}
	// kubeadm's unit has no KillMode=process: at a restart systemd ends everything in its cgroup.
	pump := strings.TrimSpace(on("pidof", "nodeagent-pump"))
	on("timeout", "120", "sh", "-c", "until grep -q 'nodeagent-pump-"+pump+"\\.scope' /proc/"+pump+"/cgroup; do sleep 0.2; done")
	on("systemctl", "restart", "kubelet")
	if after := strings.TrimSpace(on("pidof", "nodeagent-pump")); after != pump {
		t.Errorf("the log pump was %s and is %s after a restart of the unit", pump, after)
	}
	t.Logf("kubeadm reset:\n%s", on("kubeadm", "reset", "--force"))
	t.Logf("nodeagent reset:\n%s", on("nodeagent", "reset", "--yes"))
	if after := onMachine(on); after != before {
		t.Errorf("the machine is not as it was:\n--- before\n%s\n--- after\n%s", before, after)
	}
	if got := on("nodeagent", "reset", "--yes"); !strings.Contains(got, "nothing of nodeagent") {
		t.Errorf("a second reset says\n%s", got)
	}
	if os.Getenv("KEEP") != "" {
		time.Sleep(time.Hour)
	}
}

// onMachine lists what a machine has that could be an agent's.
func onMachine(on func(...string) string) string {
	var all strings.Builder
	for _, command := range []string{
		"ctr -n k8s.io containers ls -q", "ctr -n k8s.io tasks ls -q", "ctr -n k8s.io snapshots ls | awk '$3 == \"Active\" {print $1}'",
		"find /var/lib/kubelet /run/nodeagent /etc/kubernetes /etc/nodeagent /var/log/pods /var/log/containers -type f -o -type l -o -type s",
		"find /var/lib/cni -type f | grep -v -e last_reserved_ip -e lock",
		"awk '{print $5}' /proc/self/mountinfo | grep -e kubelet/ -e nodeagent/",
		"iptables-save | grep KUBE-",
		"find /sys/fs/cgroup -type d -name '*kubepods*'",
		"ps -eo comm | grep -e nodeagent -e kubelet",
	} {
		all.WriteString("# " + command + "\n" + on("sh", "-c", "("+command+") 2>/dev/null | sort || true") + "\n")
	}
	return all.String()
}
