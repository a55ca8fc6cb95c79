package config

import (
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
)

// unused checks the fields that have no effect yet. A value that kubelet or kube-proxy would
// refuse is an error here, too: otherwise the file would become invalid on the day that the field
// gets its effect.
func (d *documents) unused() {
	d.unusedImages()
	d.unusedEviction()
	d.unusedShutdown()
	d.unusedCgroups()
	d.unusedReserved()
	d.unusedIPVS()
	k := &d.kubelet
	d.oneOf(kindKubelet+".hairpinMode", or(k.HairpinMode, kubeletv1beta1.PromiscuousBridge), "promiscuous-bridge", "hairpin-veth", "none")
	d.listen(kindKubelet+".readOnlyPort", d.address(kindKubelet+".address", or(k.Address, "0.0.0.0")), k.ReadOnlyPort)
	if k.UserNamespaces != nil {
		if n := deref(k.UserNamespaces.IDsPerPod, 65536); n < 65536 || n%65536 != 0 {
			d.bad(kindKubelet+".userNamespaces.idsPerPod", "must be a multiple of 65536, is %d", n)
		}
	}
	if k.PodCIDR != "" {
		for cidr := range strings.SplitSeq(k.PodCIDR, ",") {
			d.prefix(kindKubelet+".podCIDR", strings.TrimSpace(cidr))
		}
	}
	d.beside(kindKubelet+".volumePluginDir", k.VolumePluginDir, "")
	d.within(kindKubelet+".iptablesMasqueradeBit", int(deref(k.IPTablesMasqueradeBit, 14)), 0, 31)
	d.within(kindKubelet+".iptablesDropBit", int(deref(k.IPTablesDropBit, 15)), 0, 31)
	d.within(kindProxy+".oomScoreAdj", int(deref(d.proxy.OOMScoreAdj, 0)), -1000, 1000)
}

func (d *documents) unusedImages() {
	k := &d.kubelet
	high, low := int(deref(k.ImageGCHighThresholdPercent, 85)), int(deref(k.ImageGCLowThresholdPercent, 80))
	youngest, oldest := duration(k.ImageMinimumGCAge, 2*time.Minute), k.ImageMaximumGCAge.Duration
	d.within(kindKubelet+".imageGCHighThresholdPercent", high, 0, 100)
	d.within(kindKubelet+".imageGCLowThresholdPercent", low, 0, 100)
	if low >= high {
		d.bad(d.either(kindKubelet+".imageGCLowThresholdPercent", kindKubelet+".imageGCHighThresholdPercent"),
			"imageGCLowThresholdPercent %d must be below imageGCHighThresholdPercent %d", low, high)
	}
	d.notNegative(kindKubelet+".imageMinimumGCAge", youngest)
	d.notNegative(kindKubelet+".imageMaximumGCAge", oldest)
	if oldest > 0 && oldest <= youngest {
		d.bad(kindKubelet+".imageMaximumGCAge", "must be over imageMinimumGCAge %s, is %s", youngest, oldest)
	}
}

// either is the first of two fields that was given, for an error about both.
func (d *documents) either(one, other string) string {
	if d.given(one) {
		return one
	}
	return other
}

func (d *documents) unusedEviction() {
	k := &d.kubelet
	d.thresholds(kindKubelet+".evictionSoft", k.EvictionSoft)
	for _, signal := range sorted(k.EvictionSoftGracePeriod) {
		text := k.EvictionSoftGracePeriod[signal]
		where := join(kindKubelet+".evictionSoftGracePeriod", signal)
		d.signal(where, signal)
		if t, err := time.ParseDuration(text); err != nil || t < 0 {
			d.bad(where, "must be a duration such as 90s, is %q", text)
		}
	}
	for _, signal := range sorted(k.EvictionSoft) {
		if _, ok := k.EvictionSoftGracePeriod[signal]; !ok {
			d.bad(join(kindKubelet+".evictionSoft", signal), "needs an evictionSoftGracePeriod")
		}
	}
	for _, signal := range sorted(k.EvictionMinimumReclaim) {
		text := k.EvictionMinimumReclaim[signal]
		where := join(kindKubelet+".evictionMinimumReclaim", signal)
		d.signal(where, signal)
		if q, err := resource.ParseQuantity(strings.TrimSuffix(text, "%")); err != nil || q.Sign() < 0 {
			d.bad(where, "must be a quantity or a percentage, is %q", text)
		}
	}
}

func (d *documents) unusedShutdown() {
	k := &d.kubelet
	whole, last := k.ShutdownGracePeriod.Duration, k.ShutdownGracePeriodCriticalPods.Duration
	if last > whole {
		d.bad(kindKubelet+".shutdownGracePeriodCriticalPods", "must be at most shutdownGracePeriod %s, is %s", whole, last)
	}
	if whole != 0 && whole < time.Second {
		d.bad(kindKubelet+".shutdownGracePeriod", "must be 0 or at least 1s, is %s", whole)
	}
	if last != 0 && last < time.Second {
		d.bad(kindKubelet+".shutdownGracePeriodCriticalPods", "must be 0 or at least 1s, is %s", last)
	}
	for _, p := range k.ShutdownGracePeriodByPodPriority {
		if p.ShutdownGracePeriodSeconds < 0 {
			d.bad(kindKubelet+".shutdownGracePeriodByPodPriority", "has a grace below 0 for priority %d", p.Priority)
		}
	}
	if len(k.ShutdownGracePeriodByPodPriority) > 0 && (whole > 0 || last > 0) {
		d.bad(kindKubelet+".shutdownGracePeriodByPodPriority", "cannot be given together with shutdownGracePeriod")
	}
}

func (d *documents) unusedCgroups() {
	k := &d.kubelet
	d.oneOf(kindKubelet+".memorySwap.swapBehavior", or(k.MemorySwap.SwapBehavior, "NoSwap"), "NoSwap", "LimitedSwap")
	if f := deref(k.MemoryThrottlingFactor, 0.9); f <= 0 || f > 1 {
		d.bad(kindKubelet+".memoryThrottlingFactor", "must be over 0 and at most 1, is %v", f)
	}
	if k.SystemCgroups != "" && k.CgroupRoot == "" {
		d.bad(kindKubelet+".systemCgroups", "needs a cgroupRoot")
	}
}

func (d *documents) unusedReserved() {
	k, where := &d.kubelet, kindKubelet+".enforceNodeAllocatable"
	seen := map[string]bool{}
	for _, e := range k.EnforceNodeAllocatable {
		d.oneOf(where, e, "none", "pods", "system-reserved", "kube-reserved", "system-reserved-compressible", "kube-reserved-compressible")
		if seen[e] {
			d.bad(where, "names %s twice", e)
		}
		seen[e] = true
		switch reserved := strings.TrimSuffix(e, "-compressible"); {
		case reserved == "system-reserved" && k.SystemReservedCgroup == "":
			d.bad(where, "has %s, but systemReservedCgroup is empty", e)
		case reserved == "kube-reserved" && k.KubeReservedCgroup == "":
			d.bad(where, "has %s, but kubeReservedCgroup is empty", e)
		}
		if e != "none" && !deref(k.CgroupsPerQOS, true) {
			d.bad(where, "has %s, but cgroupsPerQOS is false: use [none]", e)
		}
	}
	if seen["none"] && len(seen) > 1 {
		d.bad(where, "has none and something else")
	}
	for _, r := range []string{"system-reserved", "kube-reserved"} {
		if seen[r] && seen[r+"-compressible"] {
			d.bad(where, "has both %s and %s-compressible", r, r)
		}
	}
}

// unusedIPVS checks these fields as kube-proxy does: only in mode ipvs.
func (d *documents) unusedIPVS() {
	if d.proxy.Mode != "ipvs" {
		return
	}
	p := &d.proxy.IPVS
	d.notNegative(kindProxy+".ipvs.tcpTimeout", p.TCPTimeout.Duration)
	d.notNegative(kindProxy+".ipvs.tcpFinTimeout", p.TCPFinTimeout.Duration)
	d.notNegative(kindProxy+".ipvs.udpTimeout", p.UDPTimeout.Duration)
	d.notNegative(kindProxy+".ipvs.minSyncPeriod", p.MinSyncPeriod.Duration)
	d.notNegative(kindProxy+".ipvs.syncPeriod", p.SyncPeriod.Duration)
}
