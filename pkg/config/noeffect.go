package config

import (
	"slices"
	"strings"
)

// withoutEffect says what happens instead of a known field that has no effect here. `nodeagent
// config check` lists those that are set. TestEveryFieldCounts fails for a field that neither
// changes Config nor is listed here; TestConfigIsRead in internal/layers fails for a field of
// Config that nobody reads.
func withoutEffect(path string) (why string, ok bool) {
	kind, field, _ := strings.Cut(path, ".")
	switch kind {
	case kindKubelet:
		why = kubeletWithoutEffect(field)
	case kindProxy:
		why = proxyWithoutEffect(field)
	}
	return why, why != ""
}

// asItIs reports whether a field without effect has the value that describes what the agent does:
// it needs no note.
func asItIs(path, value string) bool {
	_, field, _ := strings.Cut(path, ".")
	return slices.Contains(map[string][]string{
		"cpuManagerPolicy": {"none"}, "memoryManagerPolicy": {"None"}, "topologyManagerPolicy": {"none"}, "topologyManagerScope": {"container"},
		"memoryReservationPolicy": {"None"}, "memorySwap.swapBehavior": {"NoSwap"}, "enforceNodeAllocatable": {"[pods]"},
		"configMapAndSecretChangeDetectionStrategy": {"Watch"}, "imagePullCredentialsVerificationPolicy": {"NeverVerify"},
		"imageGCHighThresholdPercent": {"100"}, "hairpinMode": {"none"}, "enableControllerAttachDetach": {"true"},
		"enableDebugFlagsHandler": {"false"}, "enableSystemLogQuery": {"false"}, "iptablesMasqueradeBit": {"14"}, "iptablesDropBit": {"15"},
	}[field], value)
}

func kubeletWithoutEffect(field string) string {
	switch field {
	case "staticPodURL", "staticPodURLHeader", "httpCheckFrequency":
		return "static pods are read from a folder only (staticPodPath)"
	case "cpuManagerPolicy", "cpuManagerPolicyOptions", "cpuManagerReconcilePeriod", "reservedMemory", "memoryManagerPolicy",
		"topologyManagerPolicy", "topologyManagerScope", "topologyManagerPolicyOptions", "qosReserved":
		return "cpu, memory and topology policies are not implemented yet: as with policy none"
	case "evictionSoft", "evictionSoftGracePeriod", "evictionMinimumReclaim", "evictionMaxPodGracePeriod":
		return "pods are not evicted for node pressure yet; evictionHard sets the node's conditions and is subtracted from what pods may use"
	case "imageMinimumGCAge", "imageMaximumGCAge", "imageGCHighThresholdPercent", "imageGCLowThresholdPercent":
		return "unused images are not removed yet"
	case "shutdownGracePeriod", "shutdownGracePeriodCriticalPods", "shutdownGracePeriodByPodPriority":
		return "the node's shutdown does not wait for pods yet: drain the node first"
	case "runOnce":
		return "the agent is a daemon"
	case "maxOpenFiles":
		return "the unit's LimitNOFILE sets it"
	case "protectKernelDefaults":
		return "kernel settings are not checked"
	case "iptablesMasqueradeBit", "iptablesDropBit":
		return "only the proxy has a masqueradeBit (KubeProxyConfiguration iptables.masqueradeBit)"
	case "featureGates":
		return "the agent behaves as Kubernetes 1.36 with its default gates"
	}
	return cgroupsWithoutEffect(field)
}

// cgroupsWithoutEffect is for kubelet's fields about cgroups, the network and volumes.
func cgroupsWithoutEffect(field string) string {
	switch field {
	case "memorySwap.swapBehavior":
		return "containers get no swap, as with NoSwap"
	case "memoryThrottlingFactor":
		return "memory.high is not set yet"
	case "memoryReservationPolicy":
		return "memory.min is not set yet"
	case "enforceNodeAllocatable":
		return "as with [pods]: kubepods is limited to the memory that the node can allocate, and no cgroup to what is reserved"
	case "kubeReservedCgroup", "systemReservedCgroup":
		return "no cgroup is limited to what is reserved yet: kubeReserved and systemReserved lower what pods may request and use"
	case "kubeletCgroups", "systemCgroups":
		return "the agent stays in the cgroup that its unit gives it, and moves no other program"
	case "userNamespaces.idsPerPod":
		return "user namespaces are not implemented yet"
	case "podCIDR":
		return "the API server and the CNI configuration decide it"
	case "hairpinMode":
		return "the CNI configuration decides it (hairpinMode of the plugin bridge)"
	case "enableControllerAttachDetach":
		return "CSI volumes are not implemented yet; the Node says that the controller attaches volumes"
	case "volumePluginDir":
		return "FlexVolumes are not supported"
	case "volumeStatsAggPeriod":
		return "volumes are not measured for /stats/summary yet"
	}
	return moreWithoutEffect(field)
}

// moreWithoutEffect is for the rest of kubelet's fields.
func moreWithoutEffect(field string) string {
	switch field {
	case "readOnlyPort":
		return "the node's API has no port without authentication: use port (10250)"
	case "containerLogMaxWorkers", "containerLogMonitorInterval":
		return "the log pump rotates logs at the exact size"
	case "configMapAndSecretChangeDetectionStrategy":
		return "ConfigMaps and Secrets are watched"
	case "showHiddenMetricsForVersion":
		return "there are no hidden metrics"
	case "kernelMemcgNotification":
		return "memory pressure is read from the kernel anyway"
	case "enableSystemLogQuery", "enableDebugFlagsHandler":
		return "the node's API has no such page"
	case "imageServiceEndpoint":
		return "containerd manages images, too"
	case "imagePullCredentialsVerificationPolicy", "preloadedImagesVerificationAllowlist":
		return "for an image that is present already, pull credentials are not verified yet"
	case "tlsCurvePreferences":
		return "crypto/tls chooses its curves"
	}
	return prefixWithoutEffect(field)
}

func prefixWithoutEffect(field string) string {
	switch {
	case strings.HasPrefix(field, "tracing."):
		return "the agent exports no traces"
	case strings.HasPrefix(field, "logging.flushFrequency"), field == "logging.vmodule",
		strings.HasPrefix(field, "logging.options."):
		return "the agent's log is one stream, unbuffered"
	}
	return ""
}

func proxyWithoutEffect(field string) string {
	switch field {
	case "featureGates":
		return "the agent behaves as Kubernetes 1.36 with its default gates"
	case "showHiddenMetricsForVersion":
		return "there are no hidden metrics"
	case "hostnameOverride":
		return "both halves use one node name (--hostname-override)"
	case "portRange":
		return "kube-proxy ignores it too"
	case "oomScoreAdj":
		return "the agent has one oomScoreAdj (that of KubeletConfiguration)"
	case "windowsRunAsService":
		return "this is Linux"
	case "logging.format", "logging.verbosity":
		return "the agent has one log (KubeletConfiguration logging)"
	}
	switch {
	case strings.HasPrefix(field, "ipvs.excludeCIDRs"):
		return ""
	case strings.HasPrefix(field, "clientConnection."):
		return "both halves share one connection (--kubeconfig, kubeAPIQPS, kubeAPIBurst, contentType)"
	case strings.HasPrefix(field, "winkernel."):
		return "this is Linux"
	case strings.HasPrefix(field, "ipvs."):
		return "proxy mode ipvs is not implemented yet"
	}
	return prefixWithoutEffect(field)
}
