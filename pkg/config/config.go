// Package config is EDGE: it reads files and flags into the one typed configuration of the agent.
//
// It reads KubeletConfiguration, KubeProxyConfiguration and NodeAgentConfiguration documents and
// flags, and writes nothing. Load makes a Config, sets its defaults and validates it. Nothing
// changes it afterwards: every component gets the sub-struct that it needs and trusts it.
package config

import (
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Config is the whole configuration of one agent, one sub-struct per component. All paths are
// absolute.
type Config struct {
	Node     Node
	Identity Identity
	Paths    Paths
	API      API
	Pods     Pods
	Images   Images
	Volumes  Volumes
	Runtime  Runtime
	Network  Network
	Cgroups  Cgroups
	Reserved Reserved
	Eviction Eviction
	Server   Server
	Auth     Auth
	Proxy    Proxy
	Log      Log
}

// Node is what this machine reports of itself to the cluster.
type Node struct {
	// Name is the Node object's name: --hostname-override, else the lower-cased host name. A DNS
	// subdomain.
	Name string
	// IPs are the node's addresses, at most one per family, the first one primary. Empty: the
	// address of the default route. As in kubelet, the unspecified address alone means the same,
	// preferably of that family.
	IPs []netip.Addr
	// Labels are set at registration, besides the well-known ones.
	Labels map[string]string
	// Taints are set at registration only.
	Taints []corev1.Taint
	// ProviderID is spec.providerID.
	ProviderID string
	// ExternalCloud: a cloud controller manager sets the Node's addresses.
	ExternalCloud bool
	// Register creates the Node object; default true.
	Register bool
	// StatusUpdateFrequency is how often the status is computed; default 10s.
	StatusUpdateFrequency time.Duration
	// StatusReportFrequency is how often an unchanged status is sent; default 5m.
	StatusReportFrequency time.Duration
	// LeaseDuration is the lease's; the lease is renewed after a quarter of it; default 40s.
	LeaseDuration time.Duration
	// MaxPods is the capacity "pods"; default 110. PodsPerCore, if over 0, is another limit.
	MaxPods, PodsPerCore int
	// MaxImages is how many images status.images lists; default 50, -1 for all.
	MaxImages int
	// FailSwapOn refuses to start with swap on; default true.
	FailSwapOn bool
}

// Identity is the agent's identity at the API server.
type Identity struct {
	// Kubeconfig is the agent's kubeconfig; default /etc/kubernetes/kubelet.conf. Written by
	// bootstrap.
	Kubeconfig string
	// BootstrapKubeconfig gets the first certificate if Kubeconfig does not exist.
	BootstrapKubeconfig string
	// CertDir holds kubelet-client-current.pem and the serving certificate; default <root>/pki.
	CertDir string
	// RotateClient renews the client certificate; default true (kubelet: false, but kubeadm always
	// writes true).
	RotateClient bool
	// ServingBootstrap requests the serving certificate by CSR instead of self-signing; default
	// false.
	ServingBootstrap bool
	// ClusterCA is the CA file that join writes; default /etc/kubernetes/pki/ca.crt.
	ClusterCA string
}

// Paths are the folders of one agent. Two agents on one machine differ in every one of them.
type Paths struct {
	// Root is kubelet's root folder, named by CSI drivers and DaemonSets; default /var/lib/kubelet.
	Root string
	// Run holds sockets, namespaces and FIFOs, none of which survives a reboot; default
	// /run/nodeagent.
	Run string
	// PodLogs is the folder of container logs; default /var/log/pods.
	PodLogs string
	// ContainerLogs is the folder of links to them; default /var/log/containers.
	ContainerLogs string
	// StaticPods is the folder of static pod manifests; empty: none.
	StaticPods string
	// Pump is the program that writes container logs; default nodeagent-pump beside the agent's
	// program.
	Pump string
	// StatusSocket is the socket of `nodeagent status`; default <run>/status.sock.
	StatusSocket string
}

// API are the limits of the connection to the API server.
type API struct {
	// QPS and Burst limit requests; default 50 and 100. Requests for pods' statuses have the same
	// limits for themselves; the lease and the Node's status have none. QPS below 0: no limit.
	QPS   float32
	Burst int
	// ContentType is the wire encoding; default application/vnd.kubernetes.protobuf.
	ContentType string
	// EventQPS and EventBurst limit events; default 50 and 100. EventQPS 0: no limit.
	EventQPS   float32
	EventBurst int
}

// Pods is the pods half.
type Pods struct {
	// Enabled runs the pods half; default true.
	Enabled bool
	// ClusterDNS and ClusterDomain make resolv.conf for dnsPolicy ClusterFirst; default none.
	ClusterDNS    []netip.Addr
	ClusterDomain string
	// ResolvConf is the host's resolver file; default /etc/resolv.conf; empty: none.
	ResolvConf string
	// SyncFrequency is how often a pod is synced without an event; default 1m.
	SyncFrequency time.Duration
	// FileCheckFrequency is how often the folder of static pods is read; default 20s.
	FileCheckFrequency time.Duration
	// PidsLimit is the most processes of a pod; default -1: the machine's limit.
	PidsLimit int64
	// CPUCFSQuota enforces CPU limits; default true. CPUCFSQuotaPeriod defaults to 100ms.
	CPUCFSQuota       bool
	CPUCFSQuotaPeriod time.Duration
	// SeccompDefault uses RuntimeDefault for pods without a seccomp profile; default false.
	SeccompDefault bool
	// AllowedUnsafeSysctls are names or prefixes with "*" that pods may set beyond the safe ones.
	AllowedUnsafeSysctls []string
	// CrashMax is the longest back-off of a crash loop; default 5m.
	CrashMax time.Duration
	// RequestTimeout bounds every call of the runtime except pull, logs, exec and attach; default
	// 2m.
	RequestTimeout time.Duration
}

// Images is how images are pulled.
type Images struct {
	// PullQPS and PullBurst limit pulls; default 5 and 10. PullQPS 0: no limit.
	PullQPS   float32
	PullBurst int
	// MaxParallel is the most pulls at a time; default 10, 1 with serializeImagePulls: true.
	MaxParallel int
	// MaxPerRegistry is the most pulls at a time from one registry; default a quarter less than
	// MaxParallel, so that a registry that does not answer cannot block the pulls from others.
	MaxPerRegistry int
	// PullProgressDeadline cancels a pull for which the registry has sent nothing for so long;
	// default 5m; 0: never.
	PullProgressDeadline time.Duration
}

// Volumes is how pods' volumes are kept up to date.
type Volumes struct {
	// RefreshInterval is how often configMap, secret and projected volumes are refreshed; default
	// SyncFrequency.
	RefreshInterval time.Duration
}

// Runtime is containerd and the logs of its containers.
type Runtime struct {
	// Address is containerd's socket; default /run/containerd/containerd.sock.
	Address string
	// Namespace in containerd; default k8s.io.
	Namespace string
	// Snapshotter; default: overlayfs.
	Snapshotter string
	// Handlers map a RuntimeClass handler to its runtime. "" is the default handler, which always
	// exists.
	Handlers map[string]Handler
	// RegistryConfigDir is containerd's hosts.toml folder; default /etc/containerd/certs.d.
	RegistryConfigDir string
	// AllowForeignPods starts pods beside those that containerd's CRI plugin runs; default false.
	AllowForeignPods bool
	// LogMaxSize is the size in bytes at which a container log is rotated; default 10 MiB.
	LogMaxSize int64
	// LogMaxFiles is how many files a container keeps; default 5.
	LogMaxFiles int
}

// Handler is the runtime of a RuntimeClass handler.
type Handler struct {
	// Type is containerd's runtime name; default io.containerd.runc.v2.
	Type string `json:"type,omitempty"`
	// Binary is runc's path or name; empty: runc from PATH.
	Binary string `json:"binary,omitempty"`
}

// Network is CNI.
type Network struct {
	// CNIBinDirs are searched for plugins in order; default /opt/cni/bin.
	CNIBinDirs []string
	// CNIConfDir holds the network configurations, of which the first by name is used; default
	// /etc/cni/net.d.
	CNIConfDir string
	// CNICacheDir is libcni's result cache; default /var/lib/cni/cache.
	CNICacheDir string
	// UtilChains writes KUBE-IPTABLES-HINT and, in proxy mode iptables, KUBE-FIREWALL; default
	// true.
	UtilChains bool
}

// Cgroups is where pods' cgroups are and how they are limited.
type Cgroups struct {
	// Driver is "cgroupfs" (default) or "systemd".
	Driver string
	// Root is the parent of kubepods; default "/".
	Root string
	// PerQOS makes a cgroup for each of the classes burstable and besteffort; default true.
	PerQOS bool
	// FailV1 refuses to start on cgroup v1. Default false, with a warning on v1; kubelet's is
	// true.
	FailV1 bool
	// SingleProcessOOMKill kills only one process of a container on cgroup v2; default false.
	SingleProcessOOMKill bool
	// OOMScoreAdj of the agent itself; default -999.
	OOMScoreAdj int
}

// Reserved is the part of capacity that pods do not get.
type Reserved struct {
	// System and Kube are subtracted from capacity.
	System, Kube corev1.ResourceList
	// LocalStorage counts ephemeral storage; default true.
	LocalStorage bool
}

// Eviction is node pressure. Thresholds are signal → quantity or percentage.
type Eviction struct {
	// Hard defaults to memory.available 100Mi, nodefs.available 10%, imagefs.available 15%,
	// nodefs.inodesFree 5%.
	Hard map[string]string
	// TransitionPeriod is how long a pressure condition stays after the pressure ended; default
	// 5m.
	TransitionPeriod time.Duration
}

// Server is the node's API on 10250 and its health page on 10248.
type Server struct {
	// Enabled serves 10250; default true.
	Enabled bool
	// Listen is address and port; default 0.0.0.0:10250.
	Listen netip.AddrPort
	// Healthz is address and port; default 127.0.0.1:10248; zero: off.
	Healthz netip.AddrPort
	// CertFile and KeyFile are the user's serving certificate; empty: that in CertDir.
	CertFile, KeyFile string
	// CipherSuites (names) and MinVersion ("VersionTLS12") as crypto/tls has them; empty: its
	// defaults, at least 1.2.
	CipherSuites []string
	MinVersion   string
	// Debugging serves logs, exec, attach and port-forward; default true.
	Debugging bool
	// Profiling serves /debug/pprof; default true. Contention adds block profiles.
	Profiling, Contention bool
	// SystemLogs serves /logs; default true.
	SystemLogs bool
	// StreamIdle is after how long an idle exec or port-forward is closed; default 4h.
	StreamIdle time.Duration
}

// Auth says who may call Server.
type Auth struct {
	// ClientCAFile holds the CAs of client certificates; empty: Identity.ClusterCA, as soon as
	// that exists.
	ClientCAFile string
	// Anonymous accepts requests without credentials as system:anonymous; default false.
	Anonymous bool
	// Webhook checks bearer tokens by TokenReview; default true. WebhookTTL is how long the
	// answers are cached; default 2m.
	Webhook    bool
	WebhookTTL time.Duration
	// AlwaysAllow allows everything; default false: SubjectAccessReview.
	AlwaysAllow bool
	// AllowTTL and DenyTTL are how long its answers are cached; default 5m and 30s.
	AllowTTL, DenyTTL time.Duration
}

// ProxyMode is a mode of the services half.
type ProxyMode string

// The modes of kube-proxy, and off. Mode ipvs is not implemented yet; iptables stands in for it.
const (
	ProxyOff      ProxyMode = "off"
	ProxyIPTables ProxyMode = "iptables"
	ProxyIPVS     ProxyMode = "ipvs"
	ProxyNFTables ProxyMode = "nftables"
)

// Programmed is the mode that this version programs if m is configured. A mode that is not
// implemented yet must not keep pods from running, so another one serves the same Services.
func (m ProxyMode) Programmed() ProxyMode {
	if m == ProxyOff || m == ProxyNFTables {
		return m
	}
	return ProxyIPTables
}

// Fallback says that another mode than m is programmed; "": m is.
func (m ProxyMode) Fallback() string {
	if p := m.Programmed(); p != m {
		return "proxy mode " + string(m) + " is not implemented yet: Services are programmed in mode " + string(p)
	}
	return ""
}

// Proxy is the services half.
type Proxy struct {
	// Mode is the configured mode: off, iptables (default), ipvs or nftables.
	Mode  ProxyMode
	Rules ProxyRules
	IPVS  IPVS
	// ClusterCIDRs are the pods' addresses, at most one per family, for detectLocalMode
	// ClusterCIDR.
	ClusterCIDRs []netip.Prefix
	// DetectLocal is ClusterCIDR (default), NodeCIDR, BridgeInterface or InterfaceNamePrefix.
	DetectLocal string
	// Interface is the bridge's name or the name prefix of DetectLocal.
	Interface string
	// NodePortAddresses are CIDRs, or the single word "primary"; empty: all addresses.
	NodePortAddresses []string
	Conntrack         Conntrack
	// Healthz is /healthz of the proxy; default 0.0.0.0:10256, zero: off.
	Healthz netip.AddrPort
	// Metrics is /metrics, /proxyMode and /configz; default 127.0.0.1:10249, zero: off.
	Metrics netip.AddrPort
	// BindHardFail ends the agent if a port of the proxy is in use; default false.
	BindHardFail bool
	// Profiling serves /debug/pprof on Metrics; default false.
	Profiling bool
	// ResyncPeriod of the informers; default 15m.
	ResyncPeriod time.Duration
	// LocalEndpoints removes pods of this node from Services as soon as the agent knows that they
	// are not ready or terminate; default true.
	LocalEndpoints bool
}

// ProxyRules are the settings of the section iptables of KubeProxyConfiguration; in mode nftables,
// of the section nftables.
type ProxyRules struct {
	// MasqueradeBit is the fwmark bit of packets to masquerade, 0 to 31; default 14.
	MasqueradeBit int
	// MasqueradeAll masquerades all traffic to cluster IPs; default false.
	MasqueradeAll bool
	// LocalhostNodePorts answers NodePorts on 127.0.0.1; default false, unlike kube-proxy: it needs
	// route_localnet, which lets neighbours of the node send packets to 127.0.0.1 (CVE-2020-8558).
	// With mode nftables always false.
	LocalhostNodePorts bool
	// MinSyncPeriod is the shortest time between two syncs; default 1s. SyncPeriod is how often
	// the rules are checked; default 30s.
	MinSyncPeriod, SyncPeriod time.Duration
}

// IPVS is how to clean up after a kube-proxy in mode ipvs.
type IPVS struct {
	// ExcludeCIDRs are addresses of virtual servers that must stay.
	ExcludeCIDRs []netip.Prefix
}

// Conntrack are kube-proxy's sysctls; 0: do not set one.
type Conntrack struct {
	// MaxPerCore and Min bound nf_conntrack_max; default 32768 and 131072.
	MaxPerCore, Min int
	// TCPEstablished and TCPCloseWait; default 24h and 1h.
	TCPEstablished, TCPCloseWait time.Duration
	// TCPBeLiberal sets nf_conntrack_tcp_be_liberal; default false.
	TCPBeLiberal bool
	// UDP and UDPStream timeouts; default 0.
	UDP, UDPStream time.Duration
}

// Log is the agent's own log.
type Log struct {
	// Level is klog's verbosity: up to 3 info, from 4 debug; default 2.
	Level int
	// Format is "text" (default) or "json".
	Format string
}
