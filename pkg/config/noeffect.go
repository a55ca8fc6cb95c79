package config

import (
	"slices"
	"strings"
)

// withoutEffect says what happens instead of a known field that the agent does not act on.
// `nodeagent config check` lists those that are set. A field that neither changes Config nor stands
// here fails TestEveryFieldCounts; a field of Config that nobody reads fails TestConfigIsRead in
// internal/layers.
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

// asItIs are values of fields without effect that say what is so anyway: there is nothing to tell
// of them.
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
		return "static pods come from a folder only (staticPodPath)"
	case "cpuManagerPolicy", "cpuManagerPolicyOptions", "cpuManagerReconcilePeriod", "reservedMemory", "memoryManagerPolicy",
		"topologyManagerPolicy", "topologyManagerScope", "topologyManagerPolicyOptions", "qosReserved":
		return "cpu, memory and topology policies are not there yet: as policy none"
	case "evictionSoft", "evictionSoftGracePeriod", "evictionMinimumReclaim", "evictionMaxPodGracePeriod":
		return "pods are not evicted for node pressure yet; evictionHard makes conditions, and is taken from what pods may use"
	case "imageMinimumGCAge", "imageMaximumGCAge", "imageGCHighThresholdPercent", "imageGCLowThresholdPercent":
		return "images are not collected yet"
	case "shutdownGracePeriod", "shutdownGracePeriodCriticalPods", "shutdownGracePeriodByPodPriority":
		return "the node's shutdown is not waited with for pods yet: drain it first"
	case "runOnce":
		return "the agent is a daemon"
	case "maxOpenFiles":
		return "the unit's LimitNOFILE says it"
	case "protectKernelDefaults":
		return "kernel settings are not checked"
	case "iptablesMasqueradeBit", "iptablesDropBit":
		return "the proxy's masqueradeBit is the only one (KubeProxyConfiguration iptables.masqueradeBit)"
	case "featureGates":
		return "the agent behaves as Kubernetes 1.36 with its default gates"
	}
	return cgroupsWithoutEffect(field)
}

// cgroupsWithoutEffect are fields of kubelet's about cgroups, the network and volumes.
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
		return "user namespaces are not there yet"
	case "podCIDR":
		return "the API server and the CNI configuration say it"
	case "hairpinMode":
		return "the CNI configuration says it (hairpinMode of the plugin bridge)"
	case "enableControllerAttachDetach":
		return "volumes by CSI are not there yet; the Node says that the controller attaches them"
	case "volumePluginDir":
		return "FlexVolumes are not there"
	case "volumeStatsAggPeriod":
		return "volumes are not measured for /stats/summary yet"
	}
	return moreWithoutEffect(field)
}

// moreWithoutEffect is the last part of kubelet's fields.
func moreWithoutEffect(field string) string {
	switch field {
	case "readOnlyPort":
		return "the node's API has no port without authentication: use port (10250)"
	case "containerLogMaxWorkers", "containerLogMonitorInterval":
		return "logs are rotated by their writer, at the exact size"
	case "configMapAndSecretChangeDetectionStrategy":
		return "config maps and secrets are watched"
	case "showHiddenMetricsForVersion":
		return "there are no hidden metrics"
	case "kernelMemcgNotification":
		return "memory pressure is read from the kernel anyway"
	case "enableSystemLogQuery", "enableDebugFlagsHandler":
		return "that handler is not there"
	case "imageServiceEndpoint":
		return "images are containerd's own"
	case "imagePullCredentialsVerificationPolicy", "preloadedImagesVerificationAllowlist":
		return "pull credentials are not verified again yet"
	case "tlsCurvePreferences":
		return "crypto/tls chooses its curves"
	}
	return prefixWithoutEffect(field)
}

func prefixWithoutEffect(field string) string {
	switch {
	case strings.HasPrefix(field, "tracing."):
		return "traces are not exported"
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
		return "both halves have one node name (--hostname-override)"
	case "portRange":
		return "kube-proxy ignores it too"
	case "oomScoreAdj":
		return "the agent has one (KubeletConfiguration oomScoreAdj)"
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
		return "proxy mode ipvs is not there yet"
	case strings.HasPrefix(field, "nftables."):
		return "it counts with proxy mode nftables only"
	}
	return prefixWithoutEffect(field)
}
