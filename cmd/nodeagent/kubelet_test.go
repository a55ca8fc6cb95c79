package main

import (
	"bytes"
	"reflect"
	"regexp"
	"strings"
	"testing"

	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
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

// TestKubeletVersion: kubeadm finds the version by this expression
// (cmd/kubeadm/app/preflight/utils.go).
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

// TestKubeletFlags: every flag of kubelet is known, and none that has a field is without effect;
// unknown ones are refused; --version keeps the daemon from starting.
func TestKubeletFlags(t *testing.T) {
	known := strings.Fields(kubeletFlags + ignoredBools + ignoredValues + " containerd-namespace")
	fs := kubeletCommand().Flags()
	for _, name := range known {
		f := fs.Lookup(name)
		if f == nil {
			t.Errorf("--%s is not known", name)
			continue
		}
		_, dropped := f.Value.(*ignored)
		if listed := strings.Contains(" "+strings.Join(strings.Fields(ignoredBools+ignoredValues), " ")+" ", " "+name+" "); dropped != listed {
			t.Errorf("--%s is dropped: %v, listed as such: %v", name, dropped, listed)
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
	want := "--exit-on-lock-contention --pod-infra-container-image --runtime-cgroups"
	if got := strings.Join(ignoredFlags(c.Flags()), " "); got != want {
		t.Errorf("without effect: %s\nwant %s", got, want)
	}
	for _, name := range ignoredFlags(c.Flags()) {
		if ignoredWhy(name) == "" {
			t.Errorf("nothing says why %s has no effect", name)
		}
	}
	// a flag that a field can say must set that field, and not be dropped
	for name := range strings.FieldsSeq(ignoredBools + ignoredValues) {
		for field := range reflect.TypeFor[kubeletv1beta1.KubeletConfiguration]().Fields() {
			if strings.EqualFold(field.Name, strings.ReplaceAll(name, "-", "")) {
				t.Errorf("--%s has no effect, and KubeletConfiguration has a field %s", name, field.Name)
			}
		}
	}
	for _, bad := range [][]string{{"--no-such-flag"}, {"--version", "--container-runtime=remote"}, {"--version", "serve"}, {"--max-pods=many"}} {
		if _, err := runAsKubelet(t, bad...); err == nil {
			t.Errorf("%v was accepted", bad)
		}
	}
}

// kubeletFlags are those of kubelet 1.36 itself, without those that it inherits from cAdvisor.
const kubeletFlags = `
address allowed-unsafe-sysctls anonymous-auth authentication-token-webhook authentication-token-webhook-cache-ttl
authorization-mode authorization-webhook-cache-authorized-ttl authorization-webhook-cache-unauthorized-ttl bootstrap-kubeconfig
cert-dir cgroup-driver cgroup-root cgroups-per-qos client-ca-file cloud-provider cluster-dns cluster-domain config config-dir
container-log-max-files container-log-max-size container-runtime-endpoint contention-profiling cpu-cfs-quota cpu-cfs-quota-period
cpu-manager-policy cpu-manager-policy-options cpu-manager-reconcile-period enable-controller-attach-detach
enable-debugging-handlers enable-server enforce-node-allocatable event-burst event-qps eviction-hard eviction-max-pod-grace-period
eviction-minimum-reclaim eviction-pressure-transition-period eviction-soft eviction-soft-grace-period exit-on-lock-contention
experimental-allocatable-ignore-eviction experimental-mounter-path fail-cgroupv1 fail-swap-on feature-gates file-check-frequency
hairpin-mode healthz-bind-address healthz-port hostname-override http-check-frequency image-credential-provider-bin-dir
image-credential-provider-config image-gc-high-threshold image-gc-low-threshold image-service-endpoint kernel-memcg-notification
kube-api-burst kube-api-content-type kube-api-qps kube-reserved kube-reserved-cgroup kubeconfig kubelet-cgroups
local-storage-capacity-isolation lock-file log-flush-frequency log-json-info-buffer-size log-json-split-stream
log-text-info-buffer-size log-text-split-stream logging-format make-iptables-util-chains manifest-url manifest-url-header
max-open-files max-pods maximum-dead-containers maximum-dead-containers-per-container memory-manager-policy
minimum-container-ttl-duration minimum-image-ttl-duration node-ip node-labels node-status-max-images node-status-update-frequency
oom-score-adj pod-cidr pod-manifest-path pod-max-pids pods-per-core port protect-kernel-defaults provider-id qos-reserved
read-only-port register-node register-with-taints registry-burst registry-qps reserved-cpus reserved-memory resolv-conf root-dir
rotate-certificates rotate-server-certificates runonce runtime-cgroups runtime-request-timeout seccomp-default
serialize-image-pulls streaming-connection-idle-timeout sync-frequency system-cgroups system-reserved system-reserved-cgroup
tls-cert-file tls-cipher-suites tls-min-version tls-private-key-file topology-manager-policy topology-manager-policy-options
topology-manager-scope v vmodule volume-plugin-dir volume-stats-agg-period `
