package config

import (
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/utils/cpuset"

	"github.com/nodeagent/nodeagent/pkg/podsync/podsysctl"
)

// Host are the machine's values that the configuration uses.
type Host struct {
	// Hostname is the kernel's; Executable is the path of the running program.
	Hostname, Executable string
}

// A zero where kubelet has a default means the default: kubeadm writes zeros for all that it does
// not set.

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// sorted gives errors the same order in each run.
func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func deref[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

func duration(d metav1.Duration, otherwise time.Duration) time.Duration {
	return or(d.Duration, otherwise)
}

func period(d *metav1.Duration, otherwise time.Duration) time.Duration {
	if d == nil {
		return otherwise
	}
	return d.Duration
}

// resolve turns the documents into the configuration. It records errors in d.errs.
func (d *documents) resolve(h Host) Config {
	var c Config
	d.identity(&c)
	d.paths(&c, h)
	d.node(&c, h)
	d.api(&c)
	d.pods(&c)
	d.images(&c)
	d.runtime(&c)
	d.network(&c)
	d.cgroups(&c)
	d.reserved(&c)
	d.eviction(&c)
	d.server(&c)
	d.auth(&c)
	d.services(&c)
	d.log(&c)
	d.listening(&c)
	d.unused()
	return c
}

func (d *documents) paths(c *Config, h Host) {
	p := d.agent.Paths
	c.Paths = Paths{
		Root:          d.path(kindAgent+".paths.rootDir", p.RootDir, "/var/lib/kubelet"),
		Run:           d.path(kindAgent+".paths.runDir", p.RunDir, "/run/nodeagent"),
		PodLogs:       d.beside(kindKubelet+".podLogsDir", d.kubelet.PodLogsDir, "/var/log/pods"),
		ContainerLogs: d.path(kindAgent+".paths.containerLogsDir", p.ContainerLogsDir, "/var/log/containers"),
		StaticPods:    d.beside(kindKubelet+".staticPodPath", d.kubelet.StaticPodPath, ""),
		Pump:          d.path(kindAgent+".paths.pump", p.Pump, filepath.Join(filepath.Dir(or(h.Executable, "/usr/local/bin/nodeagent")), "nodeagent-pump")),
	}
	c.Paths.StatusSocket = d.path(kindAgent+".paths.statusSocket", p.StatusSocket, filepath.Join(c.Paths.Run, "status.sock"))
	c.Identity.CertDir = d.path(kindAgent+".paths.certDir", p.CertDir, filepath.Join(c.Paths.Root, "pki"))
}

func (d *documents) identity(c *Config) {
	p := d.agent.Paths
	c.Identity = Identity{
		Kubeconfig:          d.path(kindAgent+".paths.kubeconfig", p.Kubeconfig, "/etc/kubernetes/kubelet.conf"),
		BootstrapKubeconfig: d.path(kindAgent+".paths.bootstrapKubeconfig", p.BootstrapKubeconfig, "/etc/kubernetes/bootstrap-kubelet.conf"),
		ClusterCA:           d.path(kindAgent+".paths.clusterCA", p.ClusterCA, "/etc/kubernetes/pki/ca.crt"),
		RotateClient:        !d.given(kindKubelet+".rotateCertificates") || d.kubelet.RotateCertificates,
		ServingBootstrap:    d.kubelet.ServerTLSBootstrap,
	}
}

func (d *documents) given(path string) bool { _, ok := d.origin[path]; return ok }

const protobuf = "application/vnd.kubernetes.protobuf"

func (d *documents) api(c *Config) {
	k := &d.kubelet
	c.API = API{
		QPS:         float32(deref(k.KubeAPIQPS, 50)),
		Burst:       int(or(k.KubeAPIBurst, 100)),
		ContentType: or(k.ContentType, protobuf),
		EventQPS:    float32(deref(k.EventRecordQPS, 50)),
		EventBurst:  int(or(k.EventBurst, 100)),
	}
	// kubelet accepts any content type
	if t := c.API.ContentType; t != protobuf && t != "application/json" {
		d.note(kindKubelet+".contentType", "is "+protobuf+" here", "the agent speaks that and application/json")
		c.API.ContentType = protobuf
	}
	d.atLeast(kindKubelet+".kubeAPIQPS", int(c.API.QPS), 0)
	d.atLeast(kindKubelet+".kubeAPIBurst", c.API.Burst, 1)
	d.atLeast(kindKubelet+".eventRecordQPS", int(c.API.EventQPS), 0)
	d.atLeast(kindKubelet+".eventBurst", c.API.EventBurst, 1)
}

func (d *documents) pods(c *Config) {
	k := &d.kubelet
	c.Pods = Pods{
		Enabled:              d.agent.Pods.On(),
		ClusterDNS:           d.addresses(kindKubelet+".clusterDNS", k.ClusterDNS),
		ClusterDomain:        strings.TrimSuffix(k.ClusterDomain, "."),
		ResolvConf:           deref(k.ResolverConfig, "/etc/resolv.conf"),
		SyncFrequency:        d.positive(kindKubelet+".syncFrequency", duration(k.SyncFrequency, time.Minute)),
		FileCheckFrequency:   d.positive(kindKubelet+".fileCheckFrequency", duration(k.FileCheckFrequency, 20*time.Second)),
		PidsLimit:            noLimit(deref(k.PodPidsLimit, -1)),
		CPUCFSQuota:          deref(k.CPUCFSQuota, true),
		CPUCFSQuotaPeriod:    period(k.CPUCFSQuotaPeriod, 100*time.Millisecond),
		SeccompDefault:       deref(k.SeccompDefault, false),
		AllowedUnsafeSysctls: k.AllowedUnsafeSysctls,
		CrashMax:             period(k.CrashLoopBackOff.MaxContainerRestartPeriod, 5*time.Minute),
		RequestTimeout:       d.positive(kindKubelet+".runtimeRequestTimeout", duration(k.RuntimeRequestTimeout, 2*time.Minute)),
	}
	if p := c.Pods.CPUCFSQuotaPeriod; p < time.Millisecond || p > time.Second {
		d.bad(kindKubelet+".cpuCFSQuotaPeriod", "must be from 1ms to 1s, is %s", p)
	}
	c.Pods.ResolvConf = d.beside(kindKubelet+".resolvConf", c.Pods.ResolvConf, "")
	// KEP-4603 allows no other range
	if t := c.Pods.CrashMax; t < time.Second || t > 5*time.Minute {
		d.bad(kindKubelet+".crashLoopBackOff.maxContainerRestartPeriod", "must be from 1s to 5m, is %s", t)
	}
	for _, name := range c.Pods.AllowedUnsafeSysctls {
		if err := podsysctl.CheckAllowed(name); err != nil {
			d.bad(kindKubelet+".allowedUnsafeSysctls", "%v", err)
		}
	}
	d.domain(c.Pods.ClusterDomain)
	c.Volumes = Volumes{RefreshInterval: c.Pods.SyncFrequency}
}

// noLimit is -1 for all values that mean no limit to kubelet.
func noLimit(n int64) int64 {
	if n <= 0 {
		return -1
	}
	return n
}

func (d *documents) images(c *Config) {
	k := &d.kubelet
	c.Images = Images{
		PullQPS: float32(deref(k.RegistryPullQPS, 5)), PullBurst: int(or(k.RegistryBurst, 10)),
		PullProgressDeadline: period(d.agent.ImagePullProgressDeadline, defaultPullProgressDeadline),
	}
	d.pulls(c)
	d.atLeast(kindKubelet+".registryPullQPS", int(c.Images.PullQPS), 0)
	d.atLeast(kindKubelet+".registryBurst", c.Images.PullBurst, 1)
}

const (
	defaultParallelPulls        = 10
	defaultPullProgressDeadline = 5 * time.Minute // containerd's image_pull_progress_timeout
)

// pulls resolves how many images are pulled at a time. Unlike kubelet's, the default is not one: a
// registry that does not answer must not block pulls from others.
func (d *documents) pulls(c *Config) {
	k, where := &d.kubelet, kindKubelet+".maxParallelImagePulls"
	serialize := deref(k.SerializeImagePulls, false)
	parallel := defaultParallelPulls
	if serialize {
		parallel = 1
	}
	c.Images.MaxParallel = int(deref(k.MaxParallelImagePulls, int32(parallel)))
	d.atLeast(where, c.Images.MaxParallel, 1)
	if serialize && c.Images.MaxParallel > 1 {
		d.bad(where, "is %d, but serializeImagePulls is true", c.Images.MaxParallel)
	}
	where = kindAgent + ".maxParallelImagePullsPerRegistry"
	c.Images.MaxPerRegistry = int(deref(d.agent.MaxParallelImagePullsPerRegistry, int32(perRegistry(c.Images.MaxParallel))))
	d.atLeast(where, c.Images.MaxPerRegistry, 1)
	if c.Images.PullProgressDeadline < 0 {
		d.bad(kindAgent+".imagePullProgressDeadline", "must not be negative, is %s; 0 lets a pull wait", c.Images.PullProgressDeadline)
	}
}

// perRegistry is how many of n pulls at a time may be from one registry: all but a quarter, at
// least one, which is for others.
func perRegistry(n int) int { return max(1, n-max(1, n/4)) }

func (d *documents) runtime(c *Config) {
	k, r := &d.kubelet, d.agent.Containerd
	where, address := kindAgent+".containerd.address", r.Address
	if address == "" {
		where, address = kindKubelet+".containerRuntimeEndpoint", k.ContainerRuntimeEndpoint
	}
	c.Runtime = Runtime{
		Address:           d.path(where, strings.TrimPrefix(address, "unix://"), "/run/containerd/containerd.sock"),
		Namespace:         d.containerdName(kindAgent+".containerd.namespace", or(r.Namespace, "k8s.io")),
		Snapshotter:       d.containerdName(kindAgent+".containerd.snapshotter", or(r.Snapshotter, "overlayfs")),
		Handlers:          map[string]Handler{"": {Type: runcType}},
		RegistryConfigDir: d.path(kindAgent+".containerd.registryConfigDir", r.RegistryConfigDir, "/etc/containerd/certs.d"),
		LogMaxFiles:       int(deref(k.ContainerLogMaxFiles, 5)),
		AllowForeignPods:  r.AllowForeignPods,
	}
	for _, name := range sorted(r.Handlers) {
		h := r.Handlers[name]
		d.handler(join(kindAgent+".containerd.handlers", name), name, h)
		h.Type = or(h.Type, runcType)
		c.Runtime.Handlers[name] = h
	}
	c.Runtime.LogMaxSize = d.logSize(k.ContainerLogMaxSize)
	d.atLeast(kindKubelet+".containerLogMaxFiles", c.Runtime.LogMaxFiles, 2)
}

const runcType = "io.containerd.runc.v2"

func (d *documents) handler(field, name string, h Handler) {
	if m := validation.IsDNS1123Label(name); name != "" && len(m) > 0 {
		d.bad(field, "%q is not a valid name of a RuntimeClass handler: %s", name, m[0])
	}
	if h.Type != "" && !filepath.IsAbs(h.Type) && strings.Count(h.Type, ".") < 2 {
		d.bad(join(field, "type"), "must be a containerd runtime such as %s, or the path of a shim, is %q", runcType, h.Type)
	}
	if strings.ContainsRune(h.Binary, '/') {
		d.path(join(field, "binary"), h.Binary, "")
	}
}

// logSize is the size at which a log is rotated; below 0: never.
func (d *documents) logSize(text string) int64 {
	q, err := resource.ParseQuantity(or(text, "10Mi"))
	size, whole := q.AsInt64()
	if err != nil || !whole || size == 0 {
		d.bad(kindKubelet+".containerLogMaxSize", "must be a size in bytes such as 10Mi, or below 0 for no rotation, is %q", text)
	}
	if size < 0 {
		return math.MaxInt64
	}
	return size
}

func (d *documents) network(c *Config) {
	n := d.agent.CNI
	c.Network = Network{
		CNIBinDirs:  n.BinDirs,
		CNIConfDir:  d.path(kindAgent+".cni.confDir", n.ConfDir, "/etc/cni/net.d"),
		CNICacheDir: d.path(kindAgent+".cni.cacheDir", n.CacheDir, "/var/lib/cni/cache"),
		UtilChains:  deref(d.kubelet.MakeIPTablesUtilChains, true),
	}
	if len(n.BinDirs) == 0 {
		c.Network.CNIBinDirs = []string{"/opt/cni/bin"}
	}
	for _, dir := range c.Network.CNIBinDirs {
		d.path(kindAgent+".cni.binDirs", dir, "")
	}
}

func (d *documents) cgroups(c *Config) {
	k := &d.kubelet
	c.Cgroups = Cgroups{
		Driver: or(k.CgroupDriver, "cgroupfs"), Root: d.path(kindKubelet+".cgroupRoot", "/"+strings.TrimLeft(k.CgroupRoot, "/"), "/"),
		PerQOS: deref(k.CgroupsPerQOS, true), FailV1: deref(k.FailCgroupV1, false),
		SingleProcessOOMKill: deref(k.SingleProcessOOMKill, false), OOMScoreAdj: int(deref(k.OOMScoreAdj, -999)),
	}
	d.oneOf(kindKubelet+".cgroupDriver", c.Cgroups.Driver, "cgroupfs", "systemd")
	d.within(kindKubelet+".oomScoreAdj", c.Cgroups.OOMScoreAdj, -1000, 1000)
}

func (d *documents) reserved(c *Config) {
	k := &d.kubelet
	c.Reserved = Reserved{
		System: d.quantities(kindKubelet+".systemReserved", k.SystemReserved), Kube: d.quantities(kindKubelet+".kubeReserved", k.KubeReserved),
		LocalStorage: deref(k.LocalStorageCapacityIsolation, true),
	}
	if k.ReservedSystemCPUs == "" {
		return
	}
	where := kindKubelet + ".reservedSystemCPUs"
	cpus, err := cpuset.Parse(k.ReservedSystemCPUs)
	if err != nil || cpus.IsEmpty() {
		d.bad(where, "must be a list of CPUs such as 0-1,4, is %q", k.ReservedSystemCPUs)
	}
	if k.SystemReservedCgroup != "" || k.KubeReservedCgroup != "" {
		d.bad(where, "cannot be given together with systemReservedCgroup or kubeReservedCgroup")
	}
	// as in kubelet, the list replaces both amounts
	delete(c.Reserved.Kube, corev1.ResourceCPU)
	c.Reserved.System[corev1.ResourceCPU] = *resource.NewQuantity(int64(cpus.Size()), resource.DecimalSI)
}

func (d *documents) quantities(path string, given map[string]string) corev1.ResourceList {
	list := corev1.ResourceList{}
	for _, name := range sorted(given) {
		text := given[name]
		q, err := resource.ParseQuantity(text)
		if err != nil || q.Sign() < 0 {
			d.bad(join(path, name), "must be a quantity such as 100m or 1Gi, is %q", text)
			continue
		}
		d.oneOf(join(path, name), name, "cpu", "memory", "ephemeral-storage", "pid")
		list[corev1.ResourceName(name)] = q
	}
	return list
}
