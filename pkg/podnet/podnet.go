// Package podnet is EDGE: the network of pods, on CNI. It reads the CNI configuration folder, runs the plugins, and remembers
// in its cache folder what each sandbox was given, so that DEL is asked with the configuration that ADD had, whatever the
// folder says by then. It never makes or removes a network namespace: it is handed the path of one.
package podnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
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
	ConfDir string   // usually /etc/cni/net.d; the first usable file in order of name is the network
	BinDirs []string // usually /opt/cni/bin
	// CacheDir holds what sandboxes were given, usually /var/lib/cni. Agents on one machine need one each.
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
	return &Network{c: c, cni: libcni.NewCNIConfigWithCacheDir(c.BinDirs, c.CacheDir, nil)}, nil
}

// Setup gives the sandbox its network: CNI ADD in the namespace at path netns. What an earlier, interrupted Setup left is
// removed first. The addresses are primary first. ErrNetworkNotReady is wrapped when there is no usable configuration.
func (n *Network) Setup(ctx context.Context, netns, sandboxID string, c runtime.SandboxConfig) ([]netip.Addr, error) {
	list, err := n.current()
	if err != nil {
		return nil, err
	}
	if left, err := n.cni.GetCachedAttachments(sandboxID); err == nil && len(left) > 0 {
		if err := n.Teardown(ctx, netns, sandboxID, c); err != nil {
			return nil, err
		}
	}
	result, err := n.cni.AddNetworkList(ctx, list, runtimeConf(netns, sandboxID, c))
	if err != nil {
		// Whatever the chain did before the failing plugin is undone, so that addresses are not lost for good.
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		err = fmt.Errorf("adding pod %s/%s to network %q: %w", c.Pod.Namespace, c.Pod.Name, list.Name, err)
		if derr := n.cni.DelNetworkList(undo, list, runtimeConf(netns, sandboxID, c)); derr != nil {
			err = fmt.Errorf("%w (and undoing it: %w)", err, derr)
		}
		return nil, err
	}
	return addresses(result)
}

// Teardown is CNI DEL, with the configuration that ADD had. netns may be gone. A sandbox that was never set up is no error.
func (n *Network) Teardown(ctx context.Context, netns, sandboxID string, c runtime.SandboxConfig) error {
	if _, err := os.Stat(netns); err != nil {
		netns = "" // the specification's word for: it is gone
	}
	attached, err := n.cni.GetCachedAttachments(sandboxID)
	if err != nil {
		return fmt.Errorf("reading CNI cache %q: %w", n.c.CacheDir, err)
	}
	var errs []error
	for _, a := range attached {
		list, err := libcni.NetworkConfFromBytes(a.Config)
		if err != nil {
			errs = append(errs, fmt.Errorf("reading cached network %q: %w", a.Network, err))
			continue
		}
		rt := runtimeConf(netns, sandboxID, c)
		rt.IfName, rt.Args, rt.CapabilityArgs = a.IfName, a.CniArgs, a.CapabilityArgs
		if err := n.cni.DelNetworkList(ctx, list, rt); err != nil {
			errs = append(errs, fmt.Errorf("removing pod %s/%s from network %q: %w", c.Pod.Namespace, c.Pod.Name, a.Network, err))
		}
	}
	return errors.Join(errs...)
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

// maxBurst, in bits, is the largest that the bandwidth plugin's token bucket takes: without one, short flows would be held up.
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
