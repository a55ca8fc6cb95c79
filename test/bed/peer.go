package bed

import (
	"context"
	"fmt"
)

// Peer is a node that runs upstream's kubelet and kube-proxy, to compare with.
type Peer struct {
	// KubeletConfig is YAML that is merged into the KubeletConfiguration.
	KubeletConfig string
	// ProxyMode is kube-proxy's: "iptables" (default), "ipvs" or "nftables".
	ProxyMode string
}

// Tools implements Kind.
func (Peer) Tools() []string { return []string{"kubelet", "kube-proxy"} }

// Start implements Kind: the kubelet joins with a bootstrap token, as under kubeadm.
func (p Peer) Start(ctx context.Context, n *Node) error {
	c := n.Cluster()
	// containerd's CRI starts a pause container in every pod.
	if err := n.LoadImages(ctx, Pause); err != nil {
		return err
	}
	config, err := c.Kubectl(ctx, "get", "configmap", "-n", "kube-system", "kubelet-config", "-o", "jsonpath={.data.kubelet}")
	if err != nil {
		return fmt.Errorf("reading the cluster's kubelet configuration: %w", err)
	}
	for path, content := range map[string]string{
		"/var/lib/kubelet/config.yaml":           config,
		"/var/lib/kubelet/config.d/50-bed.conf":  n.KubeletSettings(),
		"/var/lib/kubelet/config.d/60-test.conf": kubeletKind + p.KubeletConfig,
		"/etc/kubernetes/pki/ca.crt":             c.caPEM,
		"/etc/kubernetes/bootstrap-kubelet.conf": c.BootstrapKubeconfig(),
	} {
		if err := n.WriteFile(path, []byte(content), 0o600); err != nil {
			return err
		}
	}
	_, err = n.Start(Spec{Name: "kubelet", Path: c.Tools().Get("kubelet"), Args: []string{
		"--config=/var/lib/kubelet/config.yaml", "--config-dir=/var/lib/kubelet/config.d", "--kubeconfig=/etc/kubernetes/kubelet.conf",
		"--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf", "--cert-dir=/var/lib/kubelet/pki",
		"--hostname-override=" + n.Name, "--node-ip=" + n.IP.String(),
	}})
	if err != nil {
		return err
	}
	_, err = p.StartProxy(ctx, n)
	return err
}

// StartProxy starts only kube-proxy, on any node whose kind names it in Tools. It uses the identity
// that the API server's default rules grant its rights to.
func (p Peer) StartProxy(ctx context.Context, n *Node) (*Process, error) {
	c := n.Cluster()
	kubeconfig, err := c.proxyKubeconfig(ctx)
	if err != nil {
		return nil, err
	}
	if err := n.WriteFile("/etc/kubernetes/kube-proxy.conf", []byte(kubeconfig), 0o600); err != nil {
		return nil, err
	}
	config := proxySettings(p.ProxyMode) + "clientConnection: {kubeconfig: /etc/kubernetes/kube-proxy.conf}\n"
	if err := n.WriteFile("/var/lib/kube-proxy/config.yaml", []byte(config), 0o600); err != nil {
		return nil, err
	}
	return n.Start(Spec{Name: "kube-proxy", Path: c.Tools().Get("kube-proxy"), Args: []string{
		"--config=/var/lib/kube-proxy/config.yaml", "--hostname-override=" + n.Name,
	}})
}

// proxyKubeconfig writes kube-proxy's kubeconfig.
func (c *Cluster) proxyKubeconfig(ctx context.Context) (string, error) {
	return c.cp.output(ctx, c.Env(), "kubeadm", "kubeconfig", "user", "--config", c.run.path("cp/kubeadm.yaml"), "--client-name", "system:kube-proxy")
}

const kubeletKind = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"

// KubeletSettings is a KubeletConfiguration with the settings of this node and of its kind of
// machine.
func (n *Node) KubeletSettings() string {
	return kubeletKind + fmt.Sprintf(`cgroupRoot: /%s
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
containerRuntimeEndpoint: unix://%s
# The machine that tests run on may be nearly full; that is not what they are about.
evictionHard: {memory.available: 100Mi, nodefs.available: 1%%, nodefs.inodesFree: 1%%, imagefs.available: 1%%}
imageGCHighThresholdPercent: 100
`, n.Cgroup(), ContainerdAddress)
}

// proxySettings is a KubeProxyConfiguration; mode "" is iptables.
func proxySettings(mode string) string {
	if mode == "" {
		mode = "iptables"
	}
	// Only the machine's first network namespace can set the conntrack table's size.
	return fmt.Sprintf("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: %s\nclusterCIDR: %s\noomScoreAdj: 0\nconntrack: {maxPerCore: 0}\n", mode, PodNetwork)
}

// BootstrapKubeconfig is a kubeconfig that holds the bootstrap token.
func (c *Cluster) BootstrapKubeconfig() string {
	return fmt.Sprintf(`apiVersion: v1
kind: Config
clusters:
- name: bed
  cluster: {server: "https://%s", certificate-authority: /etc/kubernetes/pki/ca.crt}
users:
- name: bootstrap
  user: {token: %q}
contexts:
- name: bed
  context: {cluster: bed, user: bootstrap}
current-context: bed
`, c.Server(), c.Token())
}
