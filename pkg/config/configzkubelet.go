package config

import (
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	logsapi "k8s.io/component-base/logs/api/v1"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
)

// KubeletKey is the key of KubeletConfiguration in kubelet's /configz.
const KubeletKey = "kubeletconfig"

// KubeletConfiguration is the document that results in this configuration, with defaults. Fields
// without effect here are empty.
func (c *Config) KubeletConfiguration() *kubeletv1beta1.KubeletConfiguration {
	k := &kubeletv1beta1.KubeletConfiguration{}
	k.SetGroupVersionKind(kubeletv1beta1.SchemeGroupVersion.WithKind(kindKubelet))
	c.showNode(k)
	c.showPods(k)
	c.showServer(k)
	return k
}

func (c *Config) showNode(k *kubeletv1beta1.KubeletConfiguration) {
	n := &c.Node
	k.Logging.Format, k.Logging.Verbosity = c.Log.Format, logsapi.VerbosityLevel(c.Log.Level) //nolint:gosec // came from one
	k.RegisterWithTaints, k.ProviderID, k.RegisterNode = n.Taints, n.ProviderID, new(n.Register)
	k.NodeStatusUpdateFrequency, k.NodeStatusReportFrequency = span(n.StatusUpdateFrequency), span(n.StatusReportFrequency)
	k.NodeLeaseDurationSeconds = int32(n.LeaseDuration / time.Second) //nolint:gosec // came from an int32
	k.MaxPods, k.PodsPerCore, k.NodeStatusMaxImages = *small(n.MaxPods), *small(n.PodsPerCore), small(n.MaxImages)
	k.FailSwapOn = new(n.FailSwapOn)
	k.RotateCertificates, k.ServerTLSBootstrap = c.Identity.RotateClient, c.Identity.ServingBootstrap
	k.KubeAPIQPS, k.KubeAPIBurst = small(int(c.API.QPS)), *small(c.API.Burst)
	k.EventRecordQPS, k.EventBurst, k.ContentType = small(int(c.API.EventQPS)), *small(c.API.EventBurst), c.API.ContentType
	k.CgroupDriver, k.CgroupRoot, k.CgroupsPerQOS = c.Cgroups.Driver, c.Cgroups.Root, new(c.Cgroups.PerQOS)
	k.FailCgroupV1, k.SingleProcessOOMKill = new(c.Cgroups.FailV1), new(c.Cgroups.SingleProcessOOMKill)
	k.OOMScoreAdj = small(c.Cgroups.OOMScoreAdj)
	k.SystemReserved, k.KubeReserved = amounts(c.Reserved.System), amounts(c.Reserved.Kube)
	k.LocalStorageCapacityIsolation = new(c.Reserved.LocalStorage)
	k.EvictionHard, k.EvictionPressureTransitionPeriod = c.Eviction.Hard, span(c.Eviction.TransitionPeriod)
}

func (c *Config) showPods(k *kubeletv1beta1.KubeletConfiguration) {
	p := &c.Pods
	for _, a := range p.ClusterDNS {
		k.ClusterDNS = append(k.ClusterDNS, a.String())
	}
	k.ClusterDomain, k.ResolverConfig = p.ClusterDomain, new(p.ResolvConf)
	k.StaticPodPath, k.PodLogsDir = c.Paths.StaticPods, c.Paths.PodLogs
	k.SyncFrequency, k.FileCheckFrequency = span(p.SyncFrequency), span(p.FileCheckFrequency)
	k.PodPidsLimit, k.CPUCFSQuota, k.CPUCFSQuotaPeriod = new(p.PidsLimit), new(p.CPUCFSQuota), new(span(p.CPUCFSQuotaPeriod))
	k.SeccompDefault, k.AllowedUnsafeSysctls = new(p.SeccompDefault), p.AllowedUnsafeSysctls
	k.CrashLoopBackOff.MaxContainerRestartPeriod = new(span(p.CrashMax))
	k.RuntimeRequestTimeout = span(p.RequestTimeout)
	k.RegistryPullQPS, k.RegistryBurst = small(int(c.Images.PullQPS)), *small(c.Images.PullBurst)
	k.SerializeImagePulls, k.MaxParallelImagePulls = new(c.Images.MaxParallel == 1), small(c.Images.MaxParallel)
	k.ContainerRuntimeEndpoint = "unix://" + c.Runtime.Address
	k.ContainerLogMaxSize, k.ContainerLogMaxFiles = strconv.FormatInt(c.Runtime.LogMaxSize, 10), small(c.Runtime.LogMaxFiles)
	if c.Runtime.LogMaxSize == math.MaxInt64 {
		k.ContainerLogMaxSize = "-1"
	}
	k.MakeIPTablesUtilChains = new(c.Network.UtilChains)
}

func (c *Config) showServer(k *kubeletv1beta1.KubeletConfiguration) {
	s, a := &c.Server, &c.Auth
	k.EnableServer = new(s.Enabled)
	k.Address, k.Port = s.Listen.Addr().String(), int32(s.Listen.Port())
	k.HealthzPort = new(int32(0))
	if s.Healthz != (netip.AddrPort{}) {
		k.HealthzBindAddress, k.HealthzPort = s.Healthz.Addr().String(), new(int32(s.Healthz.Port()))
	}
	k.TLSCertFile, k.TLSPrivateKeyFile, k.TLSCipherSuites, k.TLSMinVersion = s.CertFile, s.KeyFile, s.CipherSuites, s.MinVersion
	k.EnableDebuggingHandlers, k.EnableSystemLogHandler = new(s.Debugging), new(s.SystemLogs)
	k.EnableProfilingHandler, k.EnableContentionProfiling = new(s.Profiling), s.Contention
	k.StreamingConnectionIdleTimeout = span(s.StreamIdle)
	k.Authentication.X509.ClientCAFile = a.ClientCAFile
	k.Authentication.Anonymous.Enabled = new(a.Anonymous)
	k.Authentication.Webhook.Enabled, k.Authentication.Webhook.CacheTTL = new(a.Webhook), span(a.WebhookTTL)
	k.Authorization.Mode = kubeletv1beta1.KubeletAuthorizationModeWebhook
	if a.AlwaysAllow {
		k.Authorization.Mode = kubeletv1beta1.KubeletAuthorizationModeAlwaysAllow
	}
	k.Authorization.Webhook.CacheAuthorizedTTL, k.Authorization.Webhook.CacheUnauthorizedTTL = span(a.AllowTTL), span(a.DenyTTL)
}

func span(d time.Duration) metav1.Duration { return metav1.Duration{Duration: d} }

func amounts(list corev1.ResourceList) map[string]string {
	all := make(map[string]string, len(list))
	for name, q := range list {
		all[strings.ToLower(string(name))] = q.String()
	}
	return all
}
