package main

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
)

func runAsKubelet(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	c := kubeletCommand()
	c.SetArgs(kubeletArgs(args))
	c.SetOut(&out)
	c.SetErr(&out)
	err := c.ExecuteContext(t.Context())
	return out.String(), err
}

// TestKubeletVersion: kubeadm finds the version by this expression (cmd/kubeadm/app/preflight/utils.go).
func TestKubeletVersion(t *testing.T) {
	for _, args := range [][]string{{"--version"}, {"--version=true"}, {"--v=2", "--version"}} {
		out, err := runAsKubelet(t, args...)
		if err != nil || !regexp.MustCompile(`^\s*Kubernetes v((0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*))`).MatchString(out) {
			t.Errorf("%v: %q, %v", args, out, err)
		}
	}
	if !calledAsKubelet("/usr/bin/kubelet") || calledAsKubelet("/usr/local/bin/nodeagent") {
		t.Error("the name decides wrongly")
	}
}

// TestKubeletFlags: every flag of kubelet's is known, unknown ones are not; --version keeps the daemon from starting.
func TestKubeletFlags(t *testing.T) {
	known := strings.Fields(ignoredBools + ignoredValues + ` address cgroup-driver cgroup-root cert-dir client-ca-file cluster-dns cluster-domain config config-dir
		container-runtime-endpoint bootstrap-kubeconfig fail-cgroupv1 fail-swap-on healthz-bind-address healthz-port hostname-override kubeconfig max-pods
		node-ip node-labels pod-manifest-path port provider-id register-node register-with-taints root-dir rotate-certificates rotate-server-certificates
		tls-cert-file tls-private-key-file v containerd-namespace`)
	fs := kubeletCommand().Flags()
	for _, name := range known {
		if fs.Lookup(name) == nil {
			t.Errorf("--%s is not known", name)
		}
	}
	if len(known) < 120 {
		t.Errorf("only %d flags", len(known))
	}
	good := []string{
		"--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf", "--kubeconfig=/etc/kubernetes/kubelet.conf", "--config=/var/lib/kubelet/config.yaml",
		"--config-dir", "/etc/kubelet.d", "--container-runtime-endpoint=unix:///run/containerd/containerd.sock", "--hostname-override=n1", "--node-ip=192.168.77.2",
		"--node-labels=a=b,c=d", "--provider-id=kind://docker/kind/n1", "--register-with-taints=k=v:NoSchedule", "--runtime-cgroups=/system.slice/containerd.service",
		"--cgroup-root=/kubelet", "--cert-dir=/x", "--root-dir=/y", "--pod-infra-container-image=pause", "-v=4", "-v", "3", "--exit-on-lock-contention",
		"--eviction-hard=memory.available<5%", "--feature-gates=A=true", "--fail_swap_on=false",
	}
	c := kubeletCommand()
	if err := c.ParseFlags(kubeletArgs(good)); err != nil {
		t.Fatal(err)
	}
	want := "--eviction-hard --exit-on-lock-contention --feature-gates --pod-infra-container-image --runtime-cgroups"
	if got := strings.Join(ignoredFlags(c.Flags()), " "); got != want {
		t.Errorf("without effect: %s\nwant %s", got, want)
	}
	for _, bad := range [][]string{{"--no-such-flag"}, {"--version", "--container-runtime=remote"}, {"--version", "serve"}, {"--max-pods=many"}} {
		if _, err := runAsKubelet(t, bad...); err == nil {
			t.Errorf("%v was accepted", bad)
		}
	}
}
