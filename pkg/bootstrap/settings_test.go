package bootstrap

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/nodeagent/nodeagent/pkg/config"
)

func clusterSettings(t *testing.T, kubelet, proxy string, m machine) (settings, config.Config) {
	t.Helper()
	client := fake.NewClientset(
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kube-proxy"}, Data: map[string]string{"config.conf": proxy}},
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kubelet-config"}, Data: map[string]string{"kubelet": kubelet}})
	s := readSettings(t.Context(), m, client)
	text, err := s.documents()
	if err != nil {
		t.Fatal(err)
	}
	c, _, err := config.Resolve([]config.Source{{Name: "00-cluster.yaml", Data: text}}, &config.Flags{}, config.Host{Hostname: "n"})
	if err != nil {
		t.Fatalf("the daemon would refuse what join wrote: %v\n%s", err, text)
	}
	return s, c
}

// TestClusterSettingsAreCarriedWhole: a node that joins is as strict as the cluster's other nodes.
func TestClusterSettingsAreCarriedWhole(t *testing.T) {
	s, c := clusterSettings(t, `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
seccompDefault: true
cgroupDriver: systemd
serverTLSBootstrap: true
tlsMinVersion: VersionTLS13
maxPods: 60
evictionHard: {memory.available: 300Mi}
systemReserved: {memory: 1Gi}
syncFrequency: 0s
logging: {flushFrequency: 0, verbosity: 0}
authentication: {anonymous: {enabled: false}, webhook: {enabled: false}, x509: {clientCAFile: /of/another/machine.crt}}
resolvConf: /of/another/machine
containerRuntimeEndpoint: unix:///of/another/machine
shutdownGracePeriod: 30s
`, `mode: iptables
clusterCIDR: 10.244.0.0/16
nodePortAddresses: [10.0.0.0/8]
iptables: {masqueradeAll: true}
clientConnection: {kubeconfig: /var/lib/kube-proxy/kubeconfig.conf}
`, machine{Systemd: true, Resolved: true})
	if !c.Pods.SeccompDefault || c.Cgroups.Driver != "systemd" || !c.Identity.ServingBootstrap || c.Server.MinVersion != "VersionTLS13" || c.Node.MaxPods != 60 ||
		c.Eviction.Hard["memory.available"] != "300Mi" || c.Reserved.System.Memory().String() != "1Gi" || c.Auth.Webhook {
		t.Errorf("kubelet's settings are lost: %+v", c)
	}
	if len(c.Proxy.NodePortAddresses) != 1 || !c.Proxy.Rules.MasqueradeAll || len(c.Proxy.ClusterCIDRs) != 1 {
		t.Errorf("kube-proxy's settings are lost: %+v", c.Proxy)
	}
	if c.Auth.ClientCAFile != "" || c.Pods.ResolvConf != resolvedFile || c.Runtime.Address != "/run/containerd/containerd.sock" {
		t.Errorf("another machine's files are taken, or not the resolver's own: %q %q %q", c.Auth.ClientCAFile, c.Pods.ResolvConf, c.Runtime.Address)
	}
	line := s.String()
	for _, want := range []string{"dns 10.96.0.10", "domain cluster.local", "pod CIDR 10.244.0.0/16", "more (from kubelet-config, kube-proxy)", "shutdownGracePeriod (has no effect)"} {
		if !strings.Contains(line, want) {
			t.Errorf("%q is not in %s", want, line)
		}
	}
}

// TestClusterSettingsThatCannotBe: invalid settings, and those that are impossible on this
// machine, are left out and listed.
func TestClusterSettingsThatCannotBe(t *testing.T) {
	s, c := clusterSettings(t, "clusterDNS: [10.96.0.10, dns.example]\ncgroupDriver: systemd\nmaxPods: -3\nseccompDefault: true\nevictionHard: {nodefs.avail: 1Gi}\n",
		"mode: ipvs\nnodePortAddresses: [ten]\niptables: {masqueradeBit: 40}\n", machine{})
	if !c.Pods.SeccompDefault || len(c.Pods.ClusterDNS) != 1 || c.Cgroups.Driver != "cgroupfs" || c.Node.MaxPods != 110 {
		t.Errorf("%+v", c)
	}
	line := s.String()
	for _, want := range []string{"cgroupDriver (systemd does not run here)", "maxPods (", "evictionHard (", "nodePortAddresses (", "iptables (", "mode (is iptables here)"} {
		if !strings.Contains(line, want) {
			t.Errorf("%q is not in %s", want, line)
		}
	}
	if c.Pods.ResolvConf != "/etc/resolv.conf" {
		t.Errorf("resolver file %s", c.Pods.ResolvConf)
	}
}

// TestResolverFile: only the file of systemd-resolved's stub is replaced.
func TestResolverFile(t *testing.T) {
	root := t.TempDir()
	write := func(path, text string) {
		t.Helper()
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("/etc/resolv.conf", "nameserver 127.0.0.53\n")
	if thisMachine(root).Resolved {
		t.Error("a file that is not there is taken")
	}
	write(resolvedFile, "nameserver 192.0.2.1\n")
	if !thisMachine(root).Resolved {
		t.Error("the stub is kept")
	}
	write("/etc/resolv.conf", "nameserver 192.0.2.1\n")
	if thisMachine(root).Resolved {
		t.Error("a file that names real servers is left")
	}
}
