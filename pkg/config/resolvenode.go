package config

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
)

func (d *documents) node(c *Config, h Host) {
	k, a := &d.kubelet, &d.agent
	c.Node = Node{
		Name:                   strings.ToLower(strings.TrimSpace(or(a.NodeName, h.Hostname))),
		IPs:                    d.addresses(kindAgent+".nodeIPs", a.NodeIPs),
		Labels:                 a.NodeLabels,
		Taints:                 k.RegisterWithTaints,
		ProviderID:             k.ProviderID,
		Register:               deref(k.RegisterNode, true),
		StatusUpdateFrequency:  d.positive(kindKubelet+".nodeStatusUpdateFrequency", duration(k.NodeStatusUpdateFrequency, 10*time.Second)),
		LeaseDuration:          time.Duration(or(k.NodeLeaseDurationSeconds, 40)) * time.Second,
		MaxPods:                int(or(k.MaxPods, 110)),
		PodsPerCore:            int(k.PodsPerCore),
		MaxImages:              int(deref(k.NodeStatusMaxImages, 50)),
		PodCIDR:                k.PodCIDR,
		ControllerAttachDetach: deref(k.EnableControllerAttachDetach, true),
		FailSwapOn:             deref(k.FailSwapOn, true),
	}
	// as kubelet: with an update frequency given and no report frequency, they are the same
	report := 5 * time.Minute
	if k.NodeStatusUpdateFrequency.Duration != 0 {
		report = k.NodeStatusUpdateFrequency.Duration
	}
	c.Node.StatusReportFrequency = d.positive(kindKubelet+".nodeStatusReportFrequency", duration(k.NodeStatusReportFrequency, report))
	if m := validation.IsDNS1123Subdomain(c.Node.Name); len(m) > 0 {
		d.bad(kindAgent+".nodeName", "%q is not a node name: %s", c.Node.Name, m[0])
	}
	if len(c.Node.IPs) > 2 || len(c.Node.IPs) == 2 && c.Node.IPs[0].Is4() == c.Node.IPs[1].Is4() {
		d.bad(kindAgent+".nodeIPs", "must be at most one address per family, is %v", a.NodeIPs)
	}
	d.atLeast(kindKubelet+".nodeLeaseDurationSeconds", int(c.Node.LeaseDuration/time.Second), 1)
	d.atLeast(kindKubelet+".maxPods", c.Node.MaxPods, 0)
	d.atLeast(kindKubelet+".podsPerCore", c.Node.PodsPerCore, 0)
	d.atLeast(kindKubelet+".nodeStatusMaxImages", c.Node.MaxImages, -1)
	if k.PodCIDR != "" {
		for cidr := range strings.SplitSeq(k.PodCIDR, ",") {
			d.prefix(kindKubelet+".podCIDR", cidr)
		}
	}
	d.labels(c.Node.Labels)
	d.taints(c.Node.Taints)
}

// labels refuses those that the API server's NodeRestriction would refuse later, with a less clear message.
func (d *documents) labels(labels map[string]string) {
	for _, name := range sorted(labels) {
		value := labels[name]
		path := join(kindAgent+".nodeLabels", name)
		if m := validation.IsQualifiedName(name); len(m) > 0 {
			d.bad(path, "is not a label name: %s", m[0])
		}
		if m := validation.IsValidLabelValue(value); len(m) > 0 {
			d.bad(path, "%q is not a label value: %s", value, m[0])
		}
		if !nodeMaySet(name) {
			d.bad(path, "is a kubernetes.io label that a node may not give itself: use node.kubernetes.io/… or your own prefix, or set it with kubectl")
		}
	}
}

// nodeMaySet follows KEP-279: of the kubernetes.io and k8s.io labels only these.
func nodeMaySet(name string) bool {
	prefix, _, ok := strings.Cut(name, "/")
	if !ok || !under(prefix, "kubernetes.io") && !under(prefix, "k8s.io") {
		return true
	}
	if under(prefix, "kubelet.kubernetes.io") || under(prefix, "node.kubernetes.io") {
		return true
	}
	return slices.Contains([]string{
		corev1.LabelHostname, corev1.LabelArchStable, corev1.LabelOSStable, corev1.LabelInstanceType, corev1.LabelInstanceTypeStable,
		corev1.LabelTopologyRegion, corev1.LabelTopologyZone, corev1.LabelFailureDomainBetaRegion, corev1.LabelFailureDomainBetaZone,
		"beta.kubernetes.io/os", "beta.kubernetes.io/arch",
	}, name)
}

func under(name, domain string) bool { return name == domain || strings.HasSuffix(name, "."+domain) }

func (d *documents) taints(taints []corev1.Taint) {
	path := kindKubelet + ".registerWithTaints"
	for _, t := range taints {
		if m := validation.IsQualifiedName(t.Key); len(m) > 0 {
			d.bad(path, "%q is not a taint key: %s", t.Key, m[0])
		}
		if m := validation.IsValidLabelValue(t.Value); len(m) > 0 {
			d.bad(path, "%q is not a taint value: %s", t.Value, m[0])
		}
		d.oneOf(path, string(t.Effect), string(corev1.TaintEffectNoSchedule), string(corev1.TaintEffectPreferNoSchedule), string(corev1.TaintEffectNoExecute))
	}
}

func (d *documents) eviction(c *Config) {
	k := &d.kubelet
	c.Eviction = Eviction{
		Hard: k.EvictionHard, Soft: k.EvictionSoft, SoftGrace: map[string]time.Duration{}, MinimumReclaim: k.EvictionMinimumReclaim,
		TransitionPeriod: duration(k.EvictionPressureTransitionPeriod, 5*time.Minute),
		MaxPodGrace:      time.Duration(k.EvictionMaxPodGracePeriod) * time.Second,
	}
	standard := map[string]string{"memory.available": "100Mi", "nodefs.available": "10%", "nodefs.inodesFree": "5%", "imagefs.available": "15%", "imagefs.inodesFree": "5%"}
	switch {
	case k.EvictionHard == nil:
		c.Eviction.Hard = standard
	case deref(k.MergeDefaultEvictionSettings, false):
		for signal, v := range k.EvictionHard {
			standard[signal] = v
		}
		c.Eviction.Hard = standard
	}
	d.thresholds(kindKubelet+".evictionHard", c.Eviction.Hard)
	d.thresholds(kindKubelet+".evictionSoft", c.Eviction.Soft)
	d.thresholds(kindKubelet+".evictionMinimumReclaim", c.Eviction.MinimumReclaim)
	for _, signal := range sorted(k.EvictionSoftGracePeriod) {
		text := k.EvictionSoftGracePeriod[signal]
		t, err := time.ParseDuration(text)
		if err != nil || t < 0 {
			d.bad(join(kindKubelet+".evictionSoftGracePeriod", signal), "must be a duration such as 90s, is %q", text)
		}
		c.Eviction.SoftGrace[signal] = t
	}
	for _, signal := range sorted(c.Eviction.Soft) {
		if _, ok := c.Eviction.SoftGrace[signal]; !ok {
			d.bad(join(kindKubelet+".evictionSoft", signal), "needs an evictionSoftGracePeriod")
		}
	}
}

func (d *documents) thresholds(path string, given map[string]string) {
	for _, signal := range sorted(given) {
		v := given[signal]
		d.oneOf(join(path, signal), signal, "memory.available", "nodefs.available", "nodefs.inodesFree", "imagefs.available", "imagefs.inodesFree",
			"containerfs.available", "containerfs.inodesFree", "pid.available", "allocatableMemory.available")
		if !quantityOrPercent(v) {
			d.bad(join(path, signal), "must be a quantity or a percentage, is %q", v)
		}
	}
}

func (d *documents) shutdown(c *Config) {
	k := &d.kubelet
	c.Shutdown = Shutdown{Grace: k.ShutdownGracePeriod.Duration, Critical: k.ShutdownGracePeriodCriticalPods.Duration}
	if c.Shutdown.Critical > c.Shutdown.Grace {
		d.bad(kindKubelet+".shutdownGracePeriodCriticalPods", "must be at most shutdownGracePeriod %s, is %s", c.Shutdown.Grace, c.Shutdown.Critical)
	}
	for _, p := range k.ShutdownGracePeriodByPodPriority {
		c.Shutdown.ByPriority = append(c.Shutdown.ByPriority, PriorityGrace{p.Priority, time.Duration(p.ShutdownGracePeriodSeconds) * time.Second})
		if p.ShutdownGracePeriodSeconds < 0 {
			d.bad(kindKubelet+".shutdownGracePeriodByPodPriority", "has a grace below 0")
		}
	}
	if len(c.Shutdown.ByPriority) > 0 && c.Shutdown.Grace > 0 {
		d.bad(kindKubelet+".shutdownGracePeriodByPodPriority", "cannot be given together with shutdownGracePeriod")
	}
	slices.SortFunc(c.Shutdown.ByPriority, func(a, b PriorityGrace) int { return int(a.Priority) - int(b.Priority) })
}

func (d *documents) server(c *Config) {
	k := &d.kubelet
	address := d.address(kindKubelet+".address", or(k.Address, "0.0.0.0"))
	c.Server = Server{
		Enabled: deref(k.EnableServer, true), Listen: d.listen(kindKubelet+".port", address, or(k.Port, 10250)),
		Healthz:  d.listen(kindKubelet+".healthzPort", d.address(kindKubelet+".healthzBindAddress", or(k.HealthzBindAddress, "127.0.0.1")), deref(k.HealthzPort, 10248)),
		CertFile: d.path(kindKubelet+".tlsCertFile", k.TLSCertFile, ""), KeyFile: d.path(kindKubelet+".tlsPrivateKeyFile", k.TLSPrivateKeyFile, ""),
		CipherSuites: k.TLSCipherSuites, MinVersion: or(k.TLSMinVersion, "VersionTLS12"),
		Debugging: deref(k.EnableDebuggingHandlers, true), Profiling: deref(k.EnableProfilingHandler, true), Contention: k.EnableContentionProfiling,
		SystemLogs: deref(k.EnableSystemLogHandler, true),
		StreamIdle: duration(k.StreamingConnectionIdleTimeout, 4*time.Hour),
	}
	c.Server.ReadOnly = d.listen(kindKubelet+".readOnlyPort", address, k.ReadOnlyPort)
	if c.Server.Listen.Port() == 0 {
		d.bad(kindKubelet+".port", "must be 1 to 65535, is %d", k.Port)
	}
	if (k.TLSCertFile == "") != (k.TLSPrivateKeyFile == "") {
		d.bad(kindKubelet+".tlsCertFile", "and tlsPrivateKeyFile are given together or not at all")
	}
	d.oneOf(kindKubelet+".tlsMinVersion", c.Server.MinVersion, "VersionTLS12", "VersionTLS13")
	for _, name := range c.Server.CipherSuites {
		if !cipherSuite(name) {
			d.bad(kindKubelet+".tlsCipherSuites", "%q is not known, or insecure", name)
		}
	}
}

func (d *documents) auth(c *Config, h Host) {
	a, z := &d.kubelet.Authentication, &d.kubelet.Authorization
	c.Auth = Auth{
		ClientCAFile: d.path(kindKubelet+".authentication.x509.clientCAFile", a.X509.ClientCAFile, ""),
		Anonymous:    deref(a.Anonymous.Enabled, false),
		Webhook:      deref(a.Webhook.Enabled, true),
		WebhookTTL:   duration(a.Webhook.CacheTTL, 2*time.Minute),
		AlwaysAllow:  z.Mode == kubeletv1beta1.KubeletAuthorizationModeAlwaysAllow,
		AllowTTL:     duration(z.Webhook.CacheAuthorizedTTL, 5*time.Minute),
		DenyTTL:      duration(z.Webhook.CacheUnauthorizedTTL, 30*time.Second),
	}
	d.oneOf(kindKubelet+".authorization.mode", string(or(z.Mode, kubeletv1beta1.KubeletAuthorizationModeWebhook)), "Webhook", "AlwaysAllow")
	if ca := c.Identity.ClusterCA; c.Auth.ClientCAFile == "" && h.Exists != nil && h.Exists(ca) {
		c.Auth.ClientCAFile = ca
	}
}

func (d *documents) log(c *Config) {
	l := d.kubelet.Logging
	c.Log = Log{Level: 2, Format: or(l.Format, "text")}
	if d.given(kindKubelet + ".logging.verbosity") {
		c.Log.Level = int(l.Verbosity)
	}
	d.oneOf(kindKubelet+".logging.format", c.Log.Format, "text", "json")
}

// primaryFamily says which wildcard address the proxy's pages listen on.
func primaryFamily(c *Config) netip.Addr {
	if len(c.Node.IPs) > 0 && c.Node.IPs[0].Is6() {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}
