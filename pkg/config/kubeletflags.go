package config

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// AddKubeletFlags defines the rest of kubelet's flags (1.36, cmd/kubelet/app/options) that have a
// field in KubeletConfiguration: each sets its field. Help does not show them, since a file can
// set the same.
func (f *Flags) AddKubeletFlags(fs *pflag.FlagSet) {
	for _, def := range kubeletFlagTable() {
		f.addFlag(fs, def)
		fs.Lookup(def.name).Hidden = true
	}
}

// kubeletFlagTable maps each flag to the field of KubeletConfiguration that it sets, whether the
// field has an effect or not.
func kubeletFlagTable() []flagDef {
	defs := append(kubeletNodeFlags(), kubeletServerFlags()...)
	for i := range defs {
		defs[i].usage = "as " + defs[i].path
		defs[i].path = kindKubelet + "." + defs[i].path
	}
	return append(defs, flagDef{"cloud-provider", kindAgent + ".cloudProvider", "external, or nothing", nil})
}

func kubeletNodeFlags() []flagDef {
	return []flagDef{
		{"allowed-unsafe-sysctls", "allowedUnsafeSysctls", "", list},
		{"cgroups-per-qos", "cgroupsPerQOS", "", boolean},
		{"container-log-max-files", "containerLogMaxFiles", "", number},
		{"container-log-max-size", "containerLogMaxSize", "", nil},
		{"cpu-cfs-quota", "cpuCFSQuota", "", boolean},
		{"cpu-cfs-quota-period", "cpuCFSQuotaPeriod", "", nil},
		{"cpu-manager-policy", "cpuManagerPolicy", "", nil},
		{"cpu-manager-policy-options", "cpuManagerPolicyOptions", "", pairs},
		{"cpu-manager-reconcile-period", "cpuManagerReconcilePeriod", "", nil},
		{"enable-controller-attach-detach", "enableControllerAttachDetach", "", boolean},
		{"enforce-node-allocatable", "enforceNodeAllocatable", "", list},
		{"eviction-hard", "evictionHard", "", thresholds},
		{"eviction-max-pod-grace-period", "evictionMaxPodGracePeriod", "", number},
		{"eviction-minimum-reclaim", "evictionMinimumReclaim", "", pairs},
		{"eviction-pressure-transition-period", "evictionPressureTransitionPeriod", "", nil},
		{"eviction-soft", "evictionSoft", "", thresholds},
		{"eviction-soft-grace-period", "evictionSoftGracePeriod", "", pairs},
		{"feature-gates", "featureGates", "", switches},
		{"file-check-frequency", "fileCheckFrequency", "", nil},
		{"hairpin-mode", "hairpinMode", "", nil},
		{"http-check-frequency", "httpCheckFrequency", "", nil},
		{"image-gc-high-threshold", "imageGCHighThresholdPercent", "", number},
		{"image-gc-low-threshold", "imageGCLowThresholdPercent", "", number},
		{"image-service-endpoint", "imageServiceEndpoint", "", nil},
		{"kernel-memcg-notification", "kernelMemcgNotification", "", boolean},
		{"kube-reserved", "kubeReserved", "", pairs},
		{"kube-reserved-cgroup", "kubeReservedCgroup", "", nil},
		{"kubelet-cgroups", "kubeletCgroups", "", nil},
		{"local-storage-capacity-isolation", "localStorageCapacityIsolation", "", boolean},
		{"make-iptables-util-chains", "makeIPTablesUtilChains", "", boolean},
		{"manifest-url", "staticPodURL", "", nil},
		{"manifest-url-header", "staticPodURLHeader", "", headers},
		{"max-open-files", "maxOpenFiles", "", number},
		{"memory-manager-policy", "memoryManagerPolicy", "", nil},
		{"minimum-image-ttl-duration", "imageMinimumGCAge", "", nil},
		{"oom-score-adj", "oomScoreAdj", "", number},
		{"pod-cidr", "podCIDR", "", nil},
		{"pod-max-pids", "podPidsLimit", "", number},
		{"pods-per-core", "podsPerCore", "", number},
		{"protect-kernel-defaults", "protectKernelDefaults", "", boolean},
		{"qos-reserved", "qosReserved", "", pairs},
		{"reserved-cpus", "reservedSystemCPUs", "", nil},
		{"reserved-memory", "reservedMemory", "", reservedMemory},
		{"resolv-conf", "resolvConf", "", nil},
		{"runonce", "runOnce", "", boolean},
		{"runtime-request-timeout", "runtimeRequestTimeout", "", nil},
		{"seccomp-default", "seccompDefault", "", boolean},
		{"serialize-image-pulls", "serializeImagePulls", "", boolean},
		{"registry-burst", "registryBurst", "", number},
		{"registry-qps", "registryPullQPS", "", number},
		{"sync-frequency", "syncFrequency", "", nil},
		{"system-cgroups", "systemCgroups", "", nil},
		{"system-reserved", "systemReserved", "", pairs},
		{"system-reserved-cgroup", "systemReservedCgroup", "", nil},
		{"topology-manager-policy", "topologyManagerPolicy", "", nil},
		{"topology-manager-policy-options", "topologyManagerPolicyOptions", "", pairs},
		{"topology-manager-scope", "topologyManagerScope", "", nil},
		{"volume-plugin-dir", "volumePluginDir", "", nil},
		{"volume-stats-agg-period", "volumeStatsAggPeriod", "", nil},
	}
}

func kubeletServerFlags() []flagDef {
	return []flagDef{
		{"anonymous-auth", "authentication.anonymous.enabled", "", boolean},
		{"authentication-token-webhook", "authentication.webhook.enabled", "", boolean},
		{"authentication-token-webhook-cache-ttl", "authentication.webhook.cacheTTL", "", nil},
		{"authorization-mode", "authorization.mode", "", nil},
		{"authorization-webhook-cache-authorized-ttl", "authorization.webhook.cacheAuthorizedTTL", "", nil},
		{"authorization-webhook-cache-unauthorized-ttl", "authorization.webhook.cacheUnauthorizedTTL", "", nil},
		{"contention-profiling", "enableContentionProfiling", "", boolean},
		{"enable-debugging-handlers", "enableDebuggingHandlers", "", boolean},
		{"enable-server", "enableServer", "", boolean},
		{"event-burst", "eventBurst", "", number},
		{"event-qps", "eventRecordQPS", "", number},
		{"kube-api-burst", "kubeAPIBurst", "", number},
		{"kube-api-content-type", "contentType", "", nil},
		{"kube-api-qps", "kubeAPIQPS", "", number},
		{"log-flush-frequency", "logging.flushFrequency", "", nil},
		{"log-json-info-buffer-size", "logging.options.json.infoBufferSize", "", nil},
		{"log-json-split-stream", "logging.options.json.splitStream", "", boolean},
		{"log-text-info-buffer-size", "logging.options.text.infoBufferSize", "", nil},
		{"log-text-split-stream", "logging.options.text.splitStream", "", boolean},
		{"logging-format", "logging.format", "", nil},
		{"node-status-max-images", "nodeStatusMaxImages", "", number},
		{"node-status-update-frequency", "nodeStatusUpdateFrequency", "", nil},
		{"read-only-port", "readOnlyPort", "", number},
		{"streaming-connection-idle-timeout", "streamingConnectionIdleTimeout", "", nil},
		{"tls-cipher-suites", "tlsCipherSuites", "", list},
		{"tls-min-version", "tlsMinVersion", "", nil},
		{"vmodule", "logging.vmodule", "", modules},
	}
}

// thresholds reads signal<quantity,signal<percentage.
func thresholds(s string) (any, error) {
	m := map[string]string{}
	for e := range strings.SplitSeq(s, ",") {
		if e = strings.TrimSpace(e); e == "" {
			continue
		}
		k, v, ok := strings.Cut(e, "<")
		if !ok {
			return nil, fmt.Errorf("reading threshold %q: want signal<quantity, such as memory.available<100Mi", e)
		}
		m[strings.TrimSpace(k)] = strings.TrimSpace(v)
	}
	return m, nil
}

// switches reads name=true,name=false.
func switches(s string) (any, error) {
	m := map[string]bool{}
	for e := range strings.SplitSeq(s, ",") {
		if e = strings.TrimSpace(e); e == "" {
			continue
		}
		k, v, _ := strings.Cut(e, "=")
		on, err := strconv.ParseBool(strings.TrimSpace(v))
		if err != nil {
			return nil, fmt.Errorf("reading %q: want name=true or name=false", e)
		}
		m[strings.TrimSpace(k)] = on
	}
	return m, nil
}

// headers reads name:value,name:value.
func headers(s string) (any, error) {
	m := map[string][]string{}
	for e := range strings.SplitSeq(s, ",") {
		k, v, ok := strings.Cut(e, ":")
		if !ok {
			return nil, fmt.Errorf("reading header %q: want name:value", e)
		}
		m[strings.TrimSpace(k)] = append(m[strings.TrimSpace(k)], strings.TrimSpace(v))
	}
	return m, nil
}

// reservedMemory reads node:name=quantity,name=quantity, or several of them, with ; between.
func reservedMemory(s string) (any, error) {
	var l []map[string]any
	for e := range strings.SplitSeq(s, ";") {
		node, limits, ok := strings.Cut(e, ":")
		n, err := strconv.ParseInt(strings.TrimSpace(node), 10, 32)
		if !ok || err != nil {
			return nil, fmt.Errorf("reading reserved memory %q: want 0:memory=1Gi", e)
		}
		m, err := pairs(limits)
		if err != nil {
			return nil, err
		}
		l = append(l, map[string]any{"numaNode": n, "limits": m})
	}
	return l, nil
}

// modules reads pattern=level,pattern=level.
func modules(s string) (any, error) {
	var l []map[string]any
	for e := range strings.SplitSeq(s, ",") {
		if e = strings.TrimSpace(e); e == "" {
			continue
		}
		pattern, level, _ := strings.Cut(e, "=")
		n, err := strconv.ParseUint(level, 10, 31)
		if err != nil {
			return nil, fmt.Errorf("reading %q: want pattern=level", e)
		}
		l = append(l, map[string]any{"filePattern": pattern, "verbosity": n})
	}
	return l, nil
}
