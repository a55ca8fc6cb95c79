package config

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
)

func (d *documents) node(c *Config, h Host) {
	k, a := &d.kubelet, &d.agent
	c.Node = Node{
		Name:                  strings.ToLower(strings.TrimSpace(or(a.NodeName, h.Hostname))),
		IPs:                   d.addresses(kindAgent+".nodeIPs", a.NodeIPs),
		Labels:                a.NodeLabels,
		Taints:                k.RegisterWithTaints,
		ProviderID:            k.ProviderID,
		Register:              deref(k.RegisterNode, true),
		StatusUpdateFrequency: d.positive(kindKubelet+".nodeStatusUpdateFrequency", duration(k.NodeStatusUpdateFrequency, 10*time.Second)),
		LeaseDuration:         time.Duration(or(k.NodeLeaseDurationSeconds, 40)) * time.Second,
		MaxPods:               int(or(k.MaxPods, 110)),
		PodsPerCore:           int(k.PodsPerCore),
		MaxImages:             int(deref(k.NodeStatusMaxImages, 50)),
		FailSwapOn:            deref(k.FailSwapOn, true),
	}
	// as in kubelet, an update frequency without a report frequency is both
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
	d.cloud(c)
	for _, a := range c.Node.IPs {
		if a.IsUnspecified() && len(c.Node.IPs) == 1 {
			continue
		}
		if a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() {
			d.bad(kindAgent+".nodeIPs", "%s is not an address that other nodes can reach: give one of an interface of this machine, or none", a)
		}
	}
	d.labels(c.Node.Labels)
	d.taints(c.Node.Taints)
}

// cloud resolves whether an external cloud provider sets the Node up. A taint keeps pods away
// until then.
func (d *documents) cloud(c *Config) {
	provider := d.agent.CloudProvider
	c.Node.ExternalCloud = provider == "external"
	if provider != "" && !c.Node.ExternalCloud {
		d.bad(kindAgent+".cloudProvider", "must be external, or left out, is %q: in-tree cloud providers are gone since Kubernetes 1.31", provider)
	}
	if c.Node.ExternalCloud {
		c.Node.Taints = append(slices.Clone(c.Node.Taints), corev1.Taint{Key: cloudTaint, Value: "true", Effect: corev1.TaintEffectNoSchedule})
	}
}

// cloudTaint is removed by the cloud controller manager when it has set the Node up.
const cloudTaint = "node.cloudprovider.kubernetes.io/uninitialized"

// labels refuses labels that the API server's NodeRestriction would refuse later with a less clear
// message.
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

// nodeMaySet follows KEP-279: of labels under kubernetes.io and k8s.io a node may set only these.
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
		if t.TimeAdded != nil {
			d.bad(path, "%q has a timeAdded: the API server sets it", t.Key)
		}
		d.oneOf(path, string(t.Effect), string(corev1.TaintEffectNoSchedule), string(corev1.TaintEffectPreferNoSchedule), string(corev1.TaintEffectNoExecute))
	}
}

func (d *documents) eviction(c *Config) {
	k := &d.kubelet
	hard := map[string]string{"memory.available": "100Mi", "nodefs.available": "10%", "nodefs.inodesFree": "5%", "imagefs.available": "15%", "imagefs.inodesFree": "5%"}
	if k.EvictionHard != nil && !deref(k.MergeDefaultEvictionSettings, false) {
		clear(hard)
	}
	maps.Copy(hard, k.EvictionHard)
	where := kindKubelet + ".evictionHard"
	d.thresholds(where, k.EvictionHard)
	for signal, v := range hard {
		switch {
		case v == "0%", v == "100%": // as in kubelet: no threshold
			delete(hard, signal)
		case signal == "allocatableMemory.available":
			d.note(join(where, signal), noEffect, "it follows from memory.available")
			delete(hard, signal)
		}
	}
	c.Eviction = Eviction{
		Hard:             hard,
		TransitionPeriod: d.notNegative(kindKubelet+".evictionPressureTransitionPeriod", duration(k.EvictionPressureTransitionPeriod, 5*time.Minute)),
	}
}

func (d *documents) thresholds(path string, given map[string]string) {
	for _, signal := range sorted(given) {
		d.signal(join(path, signal), signal)
		text := given[signal]
		if n, ok := strings.CutSuffix(text, "%"); ok {
			if f, err := strconv.ParseFloat(n, 64); err != nil || !(f >= 0 && f <= 100) {
				d.bad(join(path, signal), "must be from 0%% to 100%%, or a quantity, is %q", text)
			}
			continue
		}
		if q, err := resource.ParseQuantity(text); err != nil || q.Sign() <= 0 {
			d.bad(join(path, signal), "must be a quantity over 0, or a percentage (0%% for no threshold), is %q", text)
		}
	}
}

func (d *documents) signal(field, name string) {
	d.oneOf(field, name, "memory.available", "nodefs.available", "nodefs.inodesFree", "imagefs.available", "imagefs.inodesFree",
		"containerfs.available", "containerfs.inodesFree", "pid.available", "allocatableMemory.available")
}

func (d *documents) server(c *Config) {
	k := &d.kubelet
	address := d.address(kindKubelet+".address", or(k.Address, "0.0.0.0"))
	c.Server = Server{
		Enabled: deref(k.EnableServer, true), Listen: d.listen(kindKubelet+".port", address, or(k.Port, 10250)),
		Healthz:  d.listen(kindKubelet+".healthzPort", d.address(kindKubelet+".healthzBindAddress", or(k.HealthzBindAddress, "127.0.0.1")), deref(k.HealthzPort, 10248)),
		CertFile: d.beside(kindKubelet+".tlsCertFile", k.TLSCertFile, ""), KeyFile: d.beside(kindKubelet+".tlsPrivateKeyFile", k.TLSPrivateKeyFile, ""),
		CipherSuites: d.cipherSuites(k.TLSCipherSuites), MinVersion: d.minVersion(k.TLSMinVersion),
		Debugging: deref(k.EnableDebuggingHandlers, true), Profiling: deref(k.EnableProfilingHandler, true), Contention: k.EnableContentionProfiling,
		SystemLogs: deref(k.EnableSystemLogHandler, true),
		StreamIdle: d.notNegative(kindKubelet+".streamingConnectionIdleTimeout", duration(k.StreamingConnectionIdleTimeout, 4*time.Hour)),
	}
	if c.Server.Listen.Port() == 0 {
		d.bad(kindKubelet+".port", "must be 1 to 65535, is %d", k.Port)
	}
	if (k.TLSCertFile == "") != (k.TLSPrivateKeyFile == "") {
		d.bad(kindKubelet+".tlsCertFile", "and tlsPrivateKeyFile are given together or not at all")
	}
}

func (d *documents) auth(c *Config) {
	a, z := &d.kubelet.Authentication, &d.kubelet.Authorization
	c.Auth = Auth{
		ClientCAFile: d.beside(kindKubelet+".authentication.x509.clientCAFile", a.X509.ClientCAFile, ""),
		Anonymous:    deref(a.Anonymous.Enabled, false),
		Webhook:      deref(a.Webhook.Enabled, true),
		WebhookTTL:   d.notNegative(kindKubelet+".authentication.webhook.cacheTTL", duration(a.Webhook.CacheTTL, 2*time.Minute)),
		AlwaysAllow:  z.Mode == kubeletv1beta1.KubeletAuthorizationModeAlwaysAllow,
		AllowTTL:     d.notNegative(kindKubelet+".authorization.webhook.cacheAuthorizedTTL", duration(z.Webhook.CacheAuthorizedTTL, 5*time.Minute)),
		DenyTTL:      d.notNegative(kindKubelet+".authorization.webhook.cacheUnauthorizedTTL", duration(z.Webhook.CacheUnauthorizedTTL, 30*time.Second)),
	}
	d.oneOf(kindKubelet+".authorization.mode", string(or(z.Mode, kubeletv1beta1.KubeletAuthorizationModeWebhook)), "Webhook", "AlwaysAllow")
}

func (d *documents) log(c *Config) {
	l := d.kubelet.Logging
	c.Log = Log{Level: 2, Format: or(l.Format, "text")}
	if d.given(kindKubelet + ".logging.verbosity") {
		c.Log.Level = int(l.Verbosity)
	}
	d.oneOf(kindKubelet+".logging.format", c.Log.Format, "text", "json")
}

// listening refuses addresses that exclude each other.
func (d *documents) listening(c *Config) {
	var pages []page
	if c.Server.Enabled && c.Pods.Enabled {
		pages = append(pages, page{kindKubelet + ".port", c.Server.Listen})
	}
	pages = append(pages, page{kindKubelet + ".healthzPort", c.Server.Healthz})
	if c.Proxy.Mode != ProxyOff {
		pages = append(pages, page{kindProxy + ".healthzBindAddress", c.Proxy.Healthz}, page{kindProxy + ".metricsBindAddress", c.Proxy.Metrics})
	}
	d.apart(pages)
}

// primaryFamily decides on which wildcard address the proxy's pages listen.
func primaryFamily(c *Config) netip.Addr {
	if len(c.Node.IPs) > 0 && c.Node.IPs[0].Is6() {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}
