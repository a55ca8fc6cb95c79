package config

import (
	"net/netip"
	"strings"
	"time"
)

// The ways to tell traffic that starts on this node from the rest, besides NodeCIDR.
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
		IPVS: d.ipvs(), IPTables: d.iptables(), Conntrack: d.conntrack(),
		DetectLocal:  or(string(p.DetectLocalMode), localClusterCIDR),
		Healthz:      d.addressPort(kindProxy+".healthzBindAddress", p.HealthzBindAddress, netip.AddrPortFrom(wild, 10256)),
		Metrics:      d.addressPort(kindProxy+".metricsBindAddress", p.MetricsBindAddress, netip.AddrPortFrom(loopback, 10249)),
		BindHardFail: p.BindAddressHardFail, Profiling: p.EnableProfiling,
		NodePortAddresses: p.NodePortAddresses, LocalEndpoints: d.agent.LocalEndpoints.On(),
		ResyncPeriod: d.positive(kindProxy+".configSyncPeriod", duration(p.ConfigSyncPeriod, 15*time.Minute)),
	}
	if !d.agent.Proxier.On() {
		c.Proxy.Mode = ProxyOff
	}
	if !d.agent.Proxier.On() && !d.agent.Pods.On() {
		d.bad(kindAgent+".proxier", "is off and pods is off: nothing is left to do")
	}
	d.oneOf(kindProxy+".mode", string(c.Proxy.Mode), string(ProxyIPTables), string(ProxyIPVS), string(ProxyOff))
	d.localTraffic(c)
	for _, a := range p.NodePortAddresses {
		if a == "primary" && len(p.NodePortAddresses) == 1 {
			continue
		}
		d.prefix(kindProxy+".nodePortAddresses", a)
	}
}

func (d *documents) localTraffic(c *Config) {
	p := &d.proxy
	if p.ClusterCIDR != "" {
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
	case localPrefix:
		c.Proxy.Interface = p.DetectLocal.InterfaceNamePrefix
	default:
		d.oneOf(kindProxy+".detectLocalMode", c.Proxy.DetectLocal, localClusterCIDR, "NodeCIDR", localBridge, localPrefix)
		return
	}
	if c.Proxy.Interface == "" || len(c.Proxy.Interface) > 15 {
		d.bad(kindProxy+".detectLocal", "must name an interface of 1 to 15 letters for detectLocalMode %s", c.Proxy.DetectLocal)
	}
}

func (d *documents) iptables() IPTables {
	p := &d.proxy.IPTables
	i := IPTables{
		MasqueradeBit: int(deref(p.MasqueradeBit, 14)), MasqueradeAll: p.MasqueradeAll, LocalhostNodePorts: deref(p.LocalhostNodePorts, false),
		MinSyncPeriod: duration(p.MinSyncPeriod, time.Second),
		SyncPeriod:    d.positive(kindProxy+".iptables.syncPeriod", duration(p.SyncPeriod, 30*time.Second)),
	}
	d.within(kindProxy+".iptables.masqueradeBit", i.MasqueradeBit, 0, 31)
	if i.MinSyncPeriod < 0 || i.MinSyncPeriod > i.SyncPeriod {
		d.bad(kindProxy+".iptables.minSyncPeriod", "must be from 0 to syncPeriod %s, is %s", i.SyncPeriod, i.MinSyncPeriod)
	}
	return i
}

func (d *documents) ipvs() IPVS {
	p := &d.proxy.IPVS
	i := IPVS{
		Scheduler: or(p.Scheduler, "rr"), StrictARP: p.StrictARP, MinSyncPeriod: p.MinSyncPeriod.Duration,
		SyncPeriod: d.positive(kindProxy+".ipvs.syncPeriod", duration(p.SyncPeriod, 30*time.Second)),
		TCPTimeout: p.TCPTimeout.Duration, TCPFinTimeout: p.TCPFinTimeout.Duration, UDPTimeout: p.UDPTimeout.Duration,
	}
	for _, text := range p.ExcludeCIDRs {
		i.ExcludeCIDRs = append(i.ExcludeCIDRs, d.prefix(kindProxy+".ipvs.excludeCIDRs", text))
	}
	d.oneOf(kindProxy+".ipvs.scheduler", i.Scheduler, "rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "mh", "sed", "nq", "fo", "ovf", "twos")
	if i.MinSyncPeriod < 0 || i.MinSyncPeriod > i.SyncPeriod {
		d.bad(kindProxy+".ipvs.minSyncPeriod", "must be from 0 to syncPeriod %s, is %s", i.SyncPeriod, i.MinSyncPeriod)
	}
	if i.TCPTimeout < 0 || i.TCPFinTimeout < 0 || i.UDPTimeout < 0 {
		d.bad(kindProxy+".ipvs", "has a timeout below 0")
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
	if min(t.TCPEstablished, t.TCPCloseWait, t.UDP, t.UDPStream) < 0 {
		d.bad(kindProxy+".conntrack", "has a timeout below 0")
	}
	return t
}
