// Package podnet is EDGE: the network of pods, on CNI. It reads the CNI configuration folder, runs
// the plugins, and remembers in its cache folder what it asks for each sandbox, so that DEL is
// asked with the configuration that ADD had, whatever the folder says by then, also when ADD did
// not come to its end. It never makes or removes a network namespace: it is handed the path of one.
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

// ifName is the pod's interface, as every Kubernetes node names it.
const ifName = "eth0"

// Config is what a Network is made from.
type Config struct {
	// usually /etc/cni/net.d; the first usable file in order of name is the network
	ConfDir string
	BinDirs []string // usually /opt/cni/bin
	// CacheDir holds what sandboxes were given, usually /var/lib/cni. Agents on one machine need
	// one each.
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

// Setup gives the sandbox its network: CNI ADD in the namespace at path netns. What an earlier,
// interrupted Setup left is removed first. The addresses are primary first. ErrNetworkNotReady is
// wrapped when there is no usable configuration. After an error Teardown undoes what plugins did
// before the failing one.
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
	if err := n.settle(sandboxID); err != nil {
		return nil, err
	}
	return addresses(result)
}

// Teardown is CNI DEL, with the configuration that ADD had. netns may be gone. It may be asked for
// again and again, until it has no error: the plugins take a DEL of what they do not know for done.
func (n *Network) Teardown(ctx context.Context, netns, sandboxID string, c runtime.SandboxConfig) error {
	attached, err := n.attachments(netns, sandboxID)
	if err != nil {
		return err
	}
	if len(attached) == 0 {
		// Nothing is known of an ADD. There may have been one all the same: before a power cut, or
		// by an agent that kept no note.
		return n.detachBlindly(ctx, netns, sandboxID, c)
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
			err = n.settle(a.ContainerID)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// detachBlindly asks for DEL with the network in use.
func (n *Network) detachBlindly(ctx context.Context, netns, sandboxID string, c runtime.SandboxConfig) error {
	list, err := n.current()
	if err != nil {
		return nil //nolint:nilerr // without a network nothing was set up, and nobody could be asked
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

// portMapping is an entry of the portMappings capability (CNI CONVENTIONS.md).
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

// bandwidthLimits is the bandwidth capability: bits per second, and bits of burst.
type bandwidthLimits struct {
	IngressRate  int64 `json:"ingressRate,omitempty"`
	IngressBurst int64 `json:"ingressBurst,omitempty"`
	EgressRate   int64 `json:"egressRate,omitempty"`
	EgressBurst  int64 `json:"egressBurst,omitempty"`
}

// maxBurst, in bits, is the largest that the bandwidth plugin's token bucket takes: without one,
// short flows would be held up.
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

// addresses are the pod's, in the order of the plugins' result.
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
		return nil, errors.New("the CNI plugins gave the pod no address: look at the ipam section of the network's configuration")
	}
	return addrs, nil
}

// base is for messages.
func base(paths []string) []string {
	names := make([]string, len(paths))
	for i, p := range paths {
		names[i] = filepath.Base(p)
	}
	return names
}
