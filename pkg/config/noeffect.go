package config

import "strings"

// withoutEffect says what happens instead of a known field that the agent does not act on. `nodeagent config check`
// lists those that are set. A field that neither changes Config nor stands here fails TestEveryFieldCounts.
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

func kubeletWithoutEffect(field string) string {
	switch field {
	case "staticPodURL", "staticPodURLHeader", "httpCheckFrequency":
		return "static pods come from a folder only (staticPodPath)"
	case "cpuManagerPolicy", "cpuManagerPolicyOptions", "cpuManagerReconcilePeriod", "reservedMemory", "memoryManagerPolicy",
		"topologyManagerPolicy", "topologyManagerScope", "topologyManagerPolicyOptions", "qosReserved":
		return "cpu, memory and topology policies are not there yet: as policy none"
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
	return moreWithoutEffect(field)
}

// moreWithoutEffect is the second half of kubelet's fields.
func moreWithoutEffect(field string) string {
	switch field {
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
	case "memoryReservationPolicy":
		return "memory.min is not set yet"
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
	case strings.HasPrefix(field, "logging.flushFrequency"), strings.HasPrefix(field, "logging.vmodule"),
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
	case strings.HasPrefix(field, "clientConnection."):
		return "both halves share one connection (--kubeconfig, kubeAPIQPS, kubeAPIBurst, contentType)"
	case strings.HasPrefix(field, "winkernel."):
		return "this is Linux"
	case strings.HasPrefix(field, "nftables."):
		return "proxy mode nftables is not there"
	}
	return prefixWithoutEffect(field)
}
