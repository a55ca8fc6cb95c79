package bootstrap

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"github.com/nodeagent/nodeagent/pkg/config"
)

// settings are what a cluster says of itself; From says where each came from.
type settings struct {
	dns, domain, podCIDR, proxyMode, staticPods string
	from                                        []string
}

// readSettings asks where kubeadm leaves its configuration, with each client in turn, and the DNS Service itself.
// What may not be read is left open: flags, --config or the defaults decide then.
func readSettings(ctx context.Context, clients ...kubernetes.Interface) settings {
	var s settings
	for _, client := range clients {
		if client != nil {
			s.fromConfigMaps(ctx, client)
		}
	}
	for _, client := range clients {
		if s.dns != "" || client == nil {
			continue
		}
		svc, err := client.CoreV1().Services(metav1.NamespaceSystem).Get(ctx, "kube-dns", metav1.GetOptions{})
		if err == nil && svc.Spec.ClusterIP != "" {
			s.note("service kube-dns", &s.dns, svc.Spec.ClusterIP)
		}
	}
	if s.dns != "" && s.domain == "" {
		s.domain = "cluster.local"
	}
	return s
}

// note takes a value where there is none yet.
func (s *settings) note(from string, field *string, value string) {
	if *field != "" || value == "" {
		return
	}
	*field = value
	for _, f := range s.from {
		if f == from {
			return
		}
	}
	s.from = append(s.from, from)
}

func (s *settings) fromConfigMaps(ctx context.Context, client kubernetes.Interface) {
	read := func(name, key string, into any) bool {
		m, err := client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, name, metav1.GetOptions{})
		return err == nil && yaml.Unmarshal([]byte(m.Data[key]), into) == nil
	}
	var kubelet struct {
		ClusterDNS    []string `json:"clusterDNS"`
		ClusterDomain string   `json:"clusterDomain"`
		StaticPodPath string   `json:"staticPodPath"`
	}
	if read("kubelet-config", "kubelet", &kubelet) {
		s.note("kubelet-config", &s.dns, validDNS(kubelet.ClusterDNS))
		s.note("kubelet-config", &s.domain, kubelet.ClusterDomain)
		s.note("kubelet-config", &s.staticPods, kubelet.StaticPodPath)
	}
	var proxy struct {
		ClusterCIDR string `json:"clusterCIDR"`
		Mode        string `json:"mode"`
	}
	if read("kube-proxy", "config.conf", &proxy) {
		s.note("kube-proxy", &s.podCIDR, validCIDRs(proxy.ClusterCIDR))
		switch proxy.Mode { // empty is the default; what is none would keep the daemon from starting
		case string(config.ProxyIPTables), string(config.ProxyIPVS), string(config.ProxyNFTables):
			s.note("kube-proxy", &s.proxyMode, proxy.Mode)
		}
	}
	var cluster struct {
		Networking struct {
			DNSDomain string `json:"dnsDomain"`
			PodSubnet string `json:"podSubnet"`
		} `json:"networking"`
	}
	if read("kubeadm-config", "ClusterConfiguration", &cluster) {
		s.note("kubeadm-config", &s.domain, cluster.Networking.DNSDomain)
		s.note("kubeadm-config", &s.podCIDR, validCIDRs(cluster.Networking.PodSubnet))
	}
}

// validDNS drops what the loader would refuse: a mistake in the cluster must not keep the daemon from starting.
func validDNS(addresses []string) string {
	var good []string
	for _, a := range addresses {
		if ip, err := netip.ParseAddr(a); err == nil {
			good = append(good, ip.String())
		}
	}
	return strings.Join(good, ",")
}

func validCIDRs(text string) string {
	var good []string
	for c := range strings.SplitSeq(text, ",") {
		if p, err := netip.ParsePrefix(strings.TrimSpace(c)); err == nil {
			good = append(good, p.String())
		}
	}
	return strings.Join(good, ",")
}

// String is one line for people.
func (s settings) String() string {
	var parts []string
	for _, p := range []struct{ name, value string }{{"dns", s.dns}, {"domain", s.domain}, {"pod CIDR", s.podCIDR}, {"proxy mode", s.proxyMode}, {"static pods", s.staticPods}} {
		if p.value != "" {
			parts = append(parts, p.name+" "+p.value)
		}
	}
	if fallback := config.ProxyMode(s.proxyMode).Fallback(); s.proxyMode != "" && fallback != "" {
		parts = append(parts, fallback)
	}
	if len(parts) == 0 {
		return "none found, defaults hold"
	}
	return fmt.Sprintf("%s (from %s)", strings.Join(parts, ", "), strings.Join(s.from, ", "))
}

// documents are the settings as configuration files have them.
func (s settings) documents() ([]byte, error) {
	kubelet := map[string]any{"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration"}
	proxy := map[string]any{"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration"}
	set := func(doc map[string]any, name, value string) {
		if value != "" {
			doc[name] = value
		}
	}
	if s.dns != "" {
		kubelet["clusterDNS"] = strings.Split(s.dns, ",")
	}
	set(kubelet, "clusterDomain", s.domain)
	set(kubelet, "staticPodPath", s.staticPods)
	set(proxy, "clusterCIDR", s.podCIDR)
	set(proxy, "mode", s.proxyMode)
	text := []byte("# Written by nodeagent join: what the cluster says of itself. Put your own settings into another file of this folder:\n" +
		"# later names win. Remove this file and join again to read the cluster's settings afresh.\n")
	for i, doc := range []any{kubelet, proxy} {
		b, err := yaml.Marshal(doc)
		if err != nil {
			return nil, fmt.Errorf("encoding the cluster's settings: %w", err)
		}
		if i > 0 {
			text = append(text, "---\n"...)
		}
		text = append(text, b...)
	}
	return text, nil
}
