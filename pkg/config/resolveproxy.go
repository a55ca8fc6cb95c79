package config

import (
	"net/netip"
	"strings"
	"time"

	kubeproxyv1alpha1 "k8s.io/kube-proxy/config/v1alpha1"
)

// The ways to recognize traffic of this node's pods, besides NodeCIDR.
const (
	localClusterCIDR = "ClusterCIDR"
	localBridge      = "BridgeInterface"
	localPrefix      = "InterfaceNamePrefix"
)

// services resolves KubeProxyConfiguration.
func (d *documents) services(c *Config) {
	p := &d.proxy
	wild := primaryFamily(c)
	if p.BindAddress != "" {
		wild = d.address(kindProxy+".bindAddress", p.BindAddress)
	}
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if wild.Is6() {
		loopback = netip.IPv6Loopback()
	}
	c.Proxy = Proxy{
		Mode: ProxyMode(or(p.Mode, "iptables")),
		IPVS: d.ipvs(), Rules: d.ruleSettings(), Conntrack: d.conntrack(),
		DetectLocal:  or(string(p.DetectLocalMode), localClusterCIDR),
		Healthz:      d.addressPort(kindProxy+".healthzBindAddress", p.HealthzBindAddress, netip.AddrPortFrom(wild, 10256)),
		Metrics:      d.addressPort(kindProxy+".metricsBindAddress", p.MetricsBindAddress, netip.AddrPortFrom(loopback, 10249)),
		BindHardFail: p.BindAddressHardFail, Profiling: p.EnableProfiling,
		NodePortAddresses: d.nodePortAddresses(), LocalEndpoints: d.agent.LocalEndpoints.On(),
		ResyncPeriod: d.positive(kindProxy+".configSyncPeriod", duration(p.ConfigSyncPeriod, 15*time.Minute)),
	}
	if !d.agent.Proxier.On() {
		c.Proxy.Mode = ProxyOff
	}
	if !d.agent.Proxier.On() && !d.agent.Pods.On() {
		d.bad(kindAgent+".proxier", "is off and pods is off, too: there is nothing to do")
	}
	d.oneOf(kindProxy+".mode", string(c.Proxy.Mode), string(ProxyIPTables), string(ProxyIPVS), string(ProxyNFTables), string(ProxyOff))
	if c.Proxy.Mode.Fallback() != "" {
		d.note(kindProxy+".mode", "is iptables here", "mode "+string(c.Proxy.Mode)+" is not implemented yet")
	}
	d.localTraffic(c)
}

// nodePortAddresses are CIDRs, or only the word primary, which is the default of mode nftables.
func (d *documents) nodePortAddresses() []string {
	given := d.proxy.NodePortAddresses
	if len(given) == 0 && d.proxy.Mode == "nftables" {
		return []string{"primary"}
	}
	if len(given) == 1 && given[0] == "primary" {
		return given
	}
	var ranges []string
	for _, a := range given {
		if a == "primary" {
			d.bad(kindProxy+".nodePortAddresses", "has primary and something else: give primary alone, or CIDRs")
			continue
		}
		if p := d.prefix(kindProxy+".nodePortAddresses", a); p.IsValid() {
			ranges = append(ranges, p.String())
		}
	}
	return ranges
}

func (d *documents) localTraffic(c *Config) {
	p := &d.proxy
	if p.ClusterCIDR != "" && c.Proxy.DetectLocal == localClusterCIDR {
		for text := range strings.SplitSeq(p.ClusterCIDR, ",") {
			c.Proxy.ClusterCIDRs = append(c.Proxy.ClusterCIDRs, d.prefix(kindProxy+".clusterCIDR", strings.TrimSpace(text)))
		}
	}
	if n := c.Proxy.ClusterCIDRs; len(n) > 2 || len(n) == 2 && n[0].Addr().Is4() == n[1].Addr().Is4() {
		d.bad(kindProxy+".clusterCIDR", "must be at most one CIDR per family, is %q", p.ClusterCIDR)
	}
	switch c.Proxy.DetectLocal {
	case localBridge:
		c.Proxy.Interface = p.DetectLocal.BridgeInterface
		d.interfaceName(kindProxy+".detectLocal.bridgeInterface", c.Proxy.Interface, localBridge)
	case localPrefix:
		c.Proxy.Interface = p.DetectLocal.InterfaceNamePrefix
		d.interfaceName(kindProxy+".detectLocal.interfaceNamePrefix", c.Proxy.Interface, localPrefix)
	default:
		d.oneOf(kindProxy+".detectLocalMode", c.Proxy.DetectLocal, localClusterCIDR, "NodeCIDR", localBridge, localPrefix)
	}
}

// ruleSettings are those of the section nftables if that mode is configured, else of iptables.
func (d *documents) ruleSettings() ProxyRules {
	n := d.proxy.NFTables
	own := d.rules("iptables", d.proxy.IPTables)
	nftables := kubeproxyv1alpha1.KubeProxyIPTablesConfiguration{
		MasqueradeBit: n.MasqueradeBit, MasqueradeAll: n.MasqueradeAll, SyncPeriod: n.SyncPeriod, MinSyncPeriod: n.MinSyncPeriod,
	}
	other := d.rules("nftables", nftables)
	if d.proxy.Mode != "nftables" {
		d.otherMode("nftables", nftables)
		return own
	}
	d.otherMode("iptables", d.proxy.IPTables)
	return other
}

// otherMode notes what is set in the section of a mode that is not configured.
func (d *documents) otherMode(section string, p kubeproxyv1alpha1.KubeProxyIPTablesConfiguration) {
	for _, f := range []struct {
		field string
		given bool
	}{
		{"localhostNodePorts", deref(p.LocalhostNodePorts, false)},
		{"masqueradeAll", p.MasqueradeAll},
		{"masqueradeBit", p.MasqueradeBit != nil},
		{"minSyncPeriod", p.MinSyncPeriod.Duration != 0},
		{"syncPeriod", p.SyncPeriod.Duration != 0},
	} {
		if f.given {
			d.note(kindProxy+"."+section+"."+f.field, noEffect, "it is used with proxy mode "+section+" only")
		}
	}
}

// defaultRules are the defaults of either section.
func defaultRules() ProxyRules {
	return ProxyRules{MasqueradeBit: 14, MinSyncPeriod: time.Second, SyncPeriod: 30 * time.Second}
}

func (d *documents) rules(section string, p kubeproxyv1alpha1.KubeProxyIPTablesConfiguration) ProxyRules {
	of := kindProxy + "." + section
	i := defaultRules()
	if p.MasqueradeBit != nil {
		i.MasqueradeBit = int(*p.MasqueradeBit)
	}
	i.MasqueradeAll = p.MasqueradeAll
	i.LocalhostNodePorts = deref(p.LocalhostNodePorts, i.LocalhostNodePorts)
	i.MinSyncPeriod = duration(p.MinSyncPeriod, i.MinSyncPeriod)
	i.SyncPeriod = d.positive(of+".syncPeriod", duration(p.SyncPeriod, i.SyncPeriod))
	d.within(of+".masqueradeBit", i.MasqueradeBit, 0, 31)
	if i.MinSyncPeriod < 0 || i.MinSyncPeriod > i.SyncPeriod {
		d.bad(of+".minSyncPeriod", "must be from 0 to syncPeriod %s, is %s", i.SyncPeriod, i.MinSyncPeriod)
	}
	return i
}

// ipvs resolves which virtual servers are another program's. Its other fields are for a mode that
// is not implemented yet.
func (d *documents) ipvs() IPVS {
	var i IPVS
	for _, text := range d.proxy.IPVS.ExcludeCIDRs {
		i.ExcludeCIDRs = append(i.ExcludeCIDRs, d.prefix(kindProxy+".ipvs.excludeCIDRs", text))
	}
	return i
}

func (d *documents) conntrack() Conntrack {
	p := &d.proxy.Conntrack
	t := Conntrack{
		MaxPerCore: int(deref(p.MaxPerCore, 32*1024)), Min: int(deref(p.Min, 128*1024)),
		TCPEstablished: period(p.TCPEstablishedTimeout, 24*time.Hour), TCPCloseWait: period(p.TCPCloseWaitTimeout, time.Hour),
		TCPBeLiberal: p.TCPBeLiberal, UDP: p.UDPTimeout.Duration, UDPStream: p.UDPStreamTimeout.Duration,
	}
	d.atLeast(kindProxy+".conntrack.maxPerCore", t.MaxPerCore, 0)
	d.atLeast(kindProxy+".conntrack.min", t.Min, 0)
	d.notNegative(kindProxy+".conntrack.tcpEstablishedTimeout", t.TCPEstablished)
	d.notNegative(kindProxy+".conntrack.tcpCloseWaitTimeout", t.TCPCloseWait)
	d.notNegative(kindProxy+".conntrack.udpTimeout", t.UDP)
	d.notNegative(kindProxy+".conntrack.udpStreamTimeout", t.UDPStream)
	return t
}
