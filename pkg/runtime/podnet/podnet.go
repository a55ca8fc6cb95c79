// Package podnet is EDGE: the network of pods, by CNI. It reads the CNI configuration folder and
// runs the plugins. In its cache folder it keeps the request of each ADD, even of one that failed,
// so that DEL uses the same configuration, whatever the folder says by then. It never creates or
// removes a network namespace: it gets the path of one.
package podnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"github.com/containernetworking/cni/libcni"
	cnitypes "github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// ifName is the pod's interface, named as on every Kubernetes node.
const ifName = "eth0"

// Config configures a Network.
type Config struct {
	// ConfDir is usually /etc/cni/net.d; its first usable file in order of name is the network.
	ConfDir string
	BinDirs []string // usually /opt/cni/bin
	// CacheDir holds the requests, usually /var/lib/cni. Each agent on a machine needs its own.
	CacheDir string
	Logger   *slog.Logger
	Now      func() time.Time
}

// Network sets up and tears down the network of sandboxes.
type Network struct {
	c   Config
	cni *libcni.CNIConfig

	mu     sync.Mutex
	conf   conf // as last read
	probed probe
}

// New checks the configuration; the folders need not exist yet.
func New(c Config) (*Network, error) {
	if c.ConfDir == "" || len(c.BinDirs) == 0 || c.CacheDir == "" {
		return nil, errors.New("pod network: CNI configuration, binary and cache folders are required")
	}
	if c.Logger == nil || c.Now == nil {
		return nil, errors.New("pod network: logger and clock are required")
	}
	return &Network{c: c, cni: libcni.NewCNIConfigWithCacheDir(c.BinDirs, c.CacheDir, &plugins{})}, nil
}

// Setup connects the sandbox: CNI ADD in the namespace at path netns. It first removes what an
// earlier, interrupted Setup left. It returns the pod's addresses, primary first, and wraps
// ErrNetworkNotReady without a usable configuration. After an error, Teardown undoes what the
// plugins before the failing one did.
func (n *Network) Setup(ctx context.Context, netns, sandboxID string, c runtime.SandboxConfig) ([]netip.Addr, error) {
	list, err := n.current()
	if err != nil {
		return nil, err
	}
	left, err := n.attachments(netns, sandboxID)
	if err != nil {
		return nil, err
	}
	if len(left) > 0 {
		if err := n.Teardown(ctx, netns, sandboxID, c); err != nil {
			return nil, err
		}
	}
	rt := runtimeConf(netns, sandboxID, c)
	if err := n.begin(list, rt); err != nil {
		return nil, err
	}
	bounded, cancel := context.WithTimeout(ctx, addTime)
	defer cancel()
	result, err := n.cni.AddNetworkList(bounded, list, rt)
	if err != nil {
		return nil, fmt.Errorf("adding pod %s/%s to network %q: %w", c.Pod.Namespace, c.Pod.Name, list.Name, err)
	}
	if err := n.complete(sandboxID); err != nil {
		return nil, err
	}
	return addresses(result)
}

// Teardown is CNI DEL with the configuration of ADD. netns may be gone. Repeat it until it
// succeeds: plugins accept a DEL of something unknown.
func (n *Network) Teardown(ctx context.Context, netns, sandboxID string, c runtime.SandboxConfig) error {
	attached, err := n.attachments(netns, sandboxID)
	if err != nil {
		return err
	}
	if len(attached) == 0 {
		// No request is saved. There may still have been an ADD: before a power cut, or by an agent
		// that saved none.
		return n.detachUnknown(ctx, netns, sandboxID, c)
	}
	var errs []error
	for _, a := range attached {
		list, err := libcni.NetworkConfFromBytes(a.Config)
		if err != nil {
			errs = append(errs, fmt.Errorf("reading cached network %q: %w", a.Network, err))
			continue
		}
		rt := runtimeConf(namespace(netns), a.ContainerID, c)
		rt.IfName, rt.Args, rt.CapabilityArgs = a.IfName, a.CniArgs, a.CapabilityArgs
		err = n.detach(ctx, list, rt, c.Pod)
		if err == nil {
			err = n.complete(a.ContainerID)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// detachUnknown runs DEL with the network in use.
func (n *Network) detachUnknown(ctx context.Context, netns, sandboxID string, c runtime.SandboxConfig) error {
	list, err := n.current()
	if err != nil {
		return nil //nolint:nilerr // without a network there is no plugin to run
	}
	return n.detach(ctx, list, runtimeConf(namespace(netns), sandboxID, c), c.Pod)
}

func (n *Network) detach(ctx context.Context, list *libcni.NetworkConfigList, rt *libcni.RuntimeConf, pod runtime.PodRef) error {
	ctx, cancel := context.WithTimeout(ctx, delTime)
	defer cancel()
	if err := n.cni.DelNetworkList(ctx, list, rt); err != nil {
		return fmt.Errorf("removing pod %s/%s from network %q: %w", pod.Namespace, pod.Name, list.Name, err)
	}
	return nil
}

func runtimeConf(netns, sandboxID string, c runtime.SandboxConfig) *libcni.RuntimeConf {
	rt := &libcni.RuntimeConf{
		ContainerID: sandboxID,
		NetNS:       netns,
		IfName:      ifName,
		Args: [][2]string{
			{"IgnoreUnknown", "1"},
			{"K8S_POD_NAMESPACE", c.Pod.Namespace},
			{"K8S_POD_NAME", c.Pod.Name},
			{"K8S_POD_INFRA_CONTAINER_ID", sandboxID},
			{"K8S_POD_UID", string(c.Pod.UID)},
		},
		CapabilityArgs: map[string]any{"io.kubernetes.cri.pod-annotations": c.Annotations},
	}
	if m := portMappings(c.Ports); len(m) > 0 {
		rt.CapabilityArgs["portMappings"] = m
	}
	if b := bandwidth(c); b != nil {
		rt.CapabilityArgs["bandwidth"] = b
	}
	if c.CgroupParent != "" {
		rt.CapabilityArgs["cgroupPath"] = c.CgroupParent
	}
	return rt
}

// portMapping is an entry of CNI's portMappings capability (CNI CONVENTIONS.md).
type portMapping struct {
	HostPort      int32  `json:"hostPort"`
	ContainerPort int32  `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP,omitempty"`
}

func portMappings(ports []runtime.PortMapping) []portMapping {
	var m []portMapping
	for _, p := range ports {
		if p.HostPort > 0 {
			m = append(m, portMapping(p))
		}
	}
	return m
}

// bandwidthLimits is CNI's bandwidth capability: rates in bits per second, bursts in bits.
type bandwidthLimits struct {
	IngressRate  int64 `json:"ingressRate,omitempty"`
	IngressBurst int64 `json:"ingressBurst,omitempty"`
	EgressRate   int64 `json:"egressRate,omitempty"`
	EgressBurst  int64 `json:"egressBurst,omitempty"`
}

// maxBurst, in bits, is the largest burst that the bandwidth plugin accepts: a smaller one would
// slow down short flows.
const maxBurst = 1<<32 - 1

func bandwidth(c runtime.SandboxConfig) *bandwidthLimits {
	if c.IngressBandwidth <= 0 && c.EgressBandwidth <= 0 {
		return nil
	}
	b := &bandwidthLimits{}
	if c.IngressBandwidth > 0 {
		b.IngressRate, b.IngressBurst = c.IngressBandwidth, maxBurst
	}
	if c.EgressBandwidth > 0 {
		b.EgressRate, b.EgressBurst = c.EgressBandwidth, maxBurst
	}
	return b
}

// addresses returns the pod's addresses in the order of the plugins' result.
func addresses(result cnitypes.Result) ([]netip.Addr, error) {
	r, err := types100.GetResult(result)
	if err != nil {
		return nil, fmt.Errorf("reading the CNI result: %w", err)
	}
	var addrs []netip.Addr
	for _, ip := range r.IPs {
		if i := ip.Interface; i != nil && (*i < 0 || *i >= len(r.Interfaces) || r.Interfaces[*i].Sandbox == "" || r.Interfaces[*i].Name != ifName) {
			continue
		}
		if a, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			addrs = append(addrs, a.Unmap())
		}
	}
	if len(addrs) == 0 {
		return nil, errors.New("the CNI plugins assigned no address: check the ipam section of the network's configuration")
	}
	return addrs, nil
}

// base returns file names for messages.
func base(paths []string) []string {
	names := make([]string, len(paths))
	for i, p := range paths {
		names[i] = filepath.Base(p)
	}
	return names
}
