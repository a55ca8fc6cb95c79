package config

import (
	"net/netip"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeproxyv1alpha1 "k8s.io/kube-proxy/config/v1alpha1"
)

// KubeProxyGroup is the key of KubeProxyConfiguration in kube-proxy's /configz.
const KubeProxyGroup = "kubeproxy.config.k8s.io"

// KubeProxyConfiguration is the document that results in this configuration, with defaults. Fields
// without effect here are empty; the section of the mode that is not in use has its defaults.
func (c *Config) KubeProxyConfiguration() *kubeproxyv1alpha1.KubeProxyConfiguration {
	p := &c.Proxy
	iptables, nftables := p.Rules, defaultRules()
	if p.Mode == ProxyNFTables {
		iptables, nftables = nftables, iptables
	}
	out := &kubeproxyv1alpha1.KubeProxyConfiguration{
		Mode:                kubeproxyv1alpha1.ProxyMode(p.Mode),
		HostnameOverride:    c.Node.Name,
		HealthzBindAddress:  addressText(p.Healthz),
		MetricsBindAddress:  addressText(p.Metrics),
		BindAddressHardFail: p.BindHardFail,
		EnableProfiling:     p.Profiling,
		DetectLocalMode:     kubeproxyv1alpha1.LocalMode(p.DetectLocal),
		ClusterCIDR:         strings.Join(texts(p.ClusterCIDRs), ","),
		NodePortAddresses:   p.NodePortAddresses,
		ConfigSyncPeriod:    metav1.Duration{Duration: p.ResyncPeriod},
		IPTables: kubeproxyv1alpha1.KubeProxyIPTablesConfiguration{
			MasqueradeBit: small(iptables.MasqueradeBit), MasqueradeAll: iptables.MasqueradeAll,
			LocalhostNodePorts: new(iptables.LocalhostNodePorts),
			SyncPeriod:         metav1.Duration{Duration: iptables.SyncPeriod},
			MinSyncPeriod:      metav1.Duration{Duration: iptables.MinSyncPeriod},
		},
		NFTables: kubeproxyv1alpha1.KubeProxyNFTablesConfiguration{
			MasqueradeBit: small(nftables.MasqueradeBit), MasqueradeAll: nftables.MasqueradeAll,
			SyncPeriod:    metav1.Duration{Duration: nftables.SyncPeriod},
			MinSyncPeriod: metav1.Duration{Duration: nftables.MinSyncPeriod},
		},
		IPVS: kubeproxyv1alpha1.KubeProxyIPVSConfiguration{ExcludeCIDRs: texts(p.IPVS.ExcludeCIDRs)},
		Conntrack: kubeproxyv1alpha1.KubeProxyConntrackConfiguration{
			MaxPerCore: small(p.Conntrack.MaxPerCore), Min: small(p.Conntrack.Min), TCPBeLiberal: p.Conntrack.TCPBeLiberal,
			TCPEstablishedTimeout: &metav1.Duration{Duration: p.Conntrack.TCPEstablished},
			TCPCloseWaitTimeout:   &metav1.Duration{Duration: p.Conntrack.TCPCloseWait},
			UDPTimeout:            metav1.Duration{Duration: p.Conntrack.UDP}, UDPStreamTimeout: metav1.Duration{Duration: p.Conntrack.UDPStream},
		},
	}
	switch p.DetectLocal {
	case localBridge:
		out.DetectLocal.BridgeInterface = p.Interface
	case localPrefix:
		out.DetectLocal.InterfaceNamePrefix = p.Interface
	}
	out.SetGroupVersionKind(kubeproxyv1alpha1.SchemeGroupVersion.WithKind(kindProxy))
	return out
}

// small converts a number that came from an int32.
func small(n int) *int32 { return new(int32(n)) } //nolint:gosec // see above

func texts(prefixes []netip.Prefix) []string {
	out := make([]string, len(prefixes))
	for i, p := range prefixes {
		out[i] = p.String()
	}
	return out
}

// addressText is empty for what is off.
func addressText(a netip.AddrPort) string {
	if !a.IsValid() || a.Port() == 0 {
		return ""
	}
	return a.String()
}
