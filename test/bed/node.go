package bed

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Kind turns a machine with a containerd into a node of the cluster.
type Kind interface {
	// Tools names the programs that must be built, besides containerd and the control plane's.
	Tools() []string
	// Start starts the node's agent with n.Start, and returns without waiting for the node to be
	// Ready.
	Start(ctx context.Context, n *Node) error
}

// Bare is a node on which only containerd runs; the test starts the rest.
type Bare struct{}

// Tools implements Kind.
func (Bare) Tools() []string { return nil }

// Start implements Kind: it starts nothing.
func (Bare) Start(context.Context, *Node) error { return nil }

// NodeNet is a node's place in the cluster's network.
type NodeNet struct {
	Name    string       `json:"name"`
	IP      netip.Addr   `json:"ip"`      // in 192.168.77.0/24
	Gateway netip.Addr   `json:"gateway"` // also the name server
	Pods    netip.Prefix `json:"pods"`    // a /24 of 10.244.0.0/16
}

// Node is a machine of the cluster with its own containerd.
type Node struct {
	NodeNet
	cluster *Cluster
	machine *machine
	kind    Kind
	path    string // folders in front of PATH, each with a colon behind it

	mu    sync.Mutex
	procs map[string]*Process
}

// ContainerdAddress is containerd's socket as seen inside a node.
const ContainerdAddress = "/run/containerd/containerd.sock"

// firstNode is the last byte of the first node's address.
const firstNode = 11

// ReserveNode reserves addresses for a node with its own kernel, such as a User-Mode Linux machine,
// and routes its pod network to it from the control plane and the other nodes.
func (c *Cluster) ReserveNode(ctx context.Context, name string) (NodeNet, error) {
	n, err := c.reserve(name)
	if err != nil {
		return NodeNet{}, err
	}
	return n, c.routePods(ctx)
}

// reserve assigns the next free number.
func (c *Cluster) reserve(name string) (n NodeNet, err error) {
	err = c.run.update(func(r *record) {
		number := 0
		for _, m := range r.Machines {
			if m.Node != nil {
				number++
			}
			if m.Name == name {
				err = fmt.Errorf("reserving a node %q: there is one of this name", name)
				return
			}
		}
		n = NodeNet{
			Name: name, Gateway: netip.MustParseAddr(controlPlaneIP),
			IP:   netip.AddrFrom4([4]byte{192, 168, 77, byte(firstNode + number)}),
			Pods: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(number + 1), 0}), 24),
		}
		r.Machines = append(r.Machines, machineRecord{Name: name, Node: &n})
	})
	return n, errors.Join(err)
}

// routePods sets the routes to every node's pods on every machine.
func (c *Cluster) routePods(ctx context.Context) error {
	var nets []NodeNet
	for _, m := range c.run.snapshot().Machines {
		if m.Node != nil {
			nets = append(nets, *m.Node)
		}
	}
	for _, m := range c.machines() {
		var batch strings.Builder
		for _, n := range nets {
			if n.Name != m.name {
				_, _ = fmt.Fprintf(&batch, "route replace %s via %s\n", n.Pods, n.IP)
			}
		}
		cmd := exec.CommandContext(ctx, "ip", "-n", m.netns, "-batch", "-")
		cmd.Stdin = strings.NewReader(batch.String())
		if _, err := output(cmd); err != nil {
			return err
		}
	}
	return nil
}

// newNode creates the machine of a node and starts its containerd.
func (c *Cluster) newNode(ctx context.Context, name string, kind Kind) (*Node, error) {
	net, err := c.reserve(name)
	if err != nil {
		return nil, err
	}
	n := &Node{NodeNet: net, cluster: c, kind: kind, procs: map[string]*Process{}}
	if err := c.run.update(func(r *record) { r.Cgroups = append(r.Cgroups, n.Cgroup()) }); err != nil {
		return nil, err
	}
	if err := makeCgroup(n.Cgroup()); err != nil {
		return nil, err
	}
	if n.machine, err = newMachine(ctx, c.run, name, "node"); err != nil {
		return nil, err
	}
	if err := n.connect(ctx); err != nil {
		return nil, fmt.Errorf("connecting node %q: %w", name, err)
	}
	c.mu.Lock()
	c.nodes = append(c.nodes, n)
	c.mu.Unlock()
	if err := c.routePods(ctx); err != nil {
		return nil, err
	}
	if err := n.configure(); err != nil {
		return nil, fmt.Errorf("configuring node %q: %w", name, err)
	}
	return n, n.startContainerd(ctx)
}

// connect connects the node to the bridge.
func (n *Node) connect(ctx context.Context) error {
	cp, own := n.cluster.cp.netns, n.machine.netns
	for _, args := range [][]string{
		{"-n", cp, "link", "add", n.Name, "type", "veth", "peer", "name", "eth0", "netns", own},
		{"-n", cp, "link", "set", n.Name, "master", Bridge, "up"},
		{"-n", own, "link", "set", "lo", "up"},
		{"-n", own, "addr", "add", n.IP.String() + "/24", "dev", "eth0"},
		{"-n", own, "link", "set", "eth0", "up"},
		{"-n", own, "route", "add", "default", "via", n.Gateway.String()},
	} {
		if err := ip(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// configure writes the configuration of containerd, CNI and the agent, and installs the plugins. It
// does so for nodes of any kind: an agent that a test starts on a bare node must not use the
// machine's own cgroup root, which all clusters share.
func (n *Node) configure() error {
	if err := n.WriteFile("/etc/containerd/config.toml", []byte(containerdConfig), 0o644); err != nil {
		return err
	}
	if err := n.WriteFile(NodeSettingsFile, []byte(n.KubeletSettings()), 0o644); err != nil {
		return err
	}
	cni := n.cluster.Tools().CNIDir()
	plugins, err := os.ReadDir(cni)
	if err != nil {
		return fmt.Errorf("listing CNI plugins: %w", err)
	}
	bin := n.Path("/opt/cni/bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return fmt.Errorf("making CNI plugin folder: %w", err)
	}
	for _, p := range plugins {
		if err := os.Symlink(filepath.Join(cni, p.Name()), filepath.Join(bin, p.Name())); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("linking CNI plugin: %w", err)
		}
	}
	return n.WriteFile("/etc/cni/net.d/10-bed.conflist", []byte(n.CNIConfig()), 0o644)
}

// containerdConfig holds only what differs from the defaults because of the machine that tests run
// on.
const containerdConfig = `version = 3

[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = 'registry.k8s.io/pause:3.10.2'

[plugins.'io.containerd.cri.v1.images'.registry]
  config_path = '/etc/containerd/certs.d'

[plugins.'io.containerd.cri.v1.runtime']
  # Without CAP_SYS_RESOURCE nothing can get a lower oom_score_adj than its parent's.
  restrict_oom_score_adj = true
`

// CNIConfig is the node's pod network: a bridge, addresses from the node's pod CIDR, host ports.
func (n NodeNet) CNIConfig() string {
	return fmt.Sprintf(`{
  "cniVersion": "1.0.0",
  "name": "bed",
  "plugins": [
    {
      "type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipMasq": false,
      "ipam": {"type": "host-local", "ranges": [[{"subnet": %q}]], "routes": [{"dst": "0.0.0.0/0"}]}
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
`, n.Pods)
}

func (n *Node) startContainerd(ctx context.Context) error {
	p, err := n.Start(Spec{Name: "containerd", Path: n.cluster.Tools().Get("containerd"), Args: []string{"--log-level", "warn"}})
	if err != nil {
		return err
	}
	return n.waitContainerd(ctx, p)
}

// waitContainerd waits until containerd answers.
func (n *Node) waitContainerd(ctx context.Context, p *Process) error {
	err := poll(ctx, 2*time.Minute, 20*time.Millisecond, func(ctx context.Context) error {
		if !p.Running() {
			return fmt.Errorf("it ended: %w", p.Err())
		}
		_, err := n.Output(ctx, "ctr", "version")
		return err
	})
	if err != nil {
		return fmt.Errorf("waiting for containerd on %q: %w\n%s", n.Name, err, logTail(p.Log(), 10))
	}
	return nil
}

func (n *Node) startKind(ctx context.Context) error {
	if err := n.kind.Start(ctx, n); err != nil {
		return fmt.Errorf("starting node %q: %w", n.Name, err)
	}
	n.cluster.logf("node %s is started", n.Name)
	return nil
}

// Cluster is the cluster that the node belongs to.
func (n *Node) Cluster() *Cluster { return n.cluster }

// Cgroup is the name of the node's cgroup, which exists below the root of every hierarchy: the
// agent's cgroup root.
func (n *Node) Cgroup() string { return "bed-" + n.cluster.ID() + "-" + n.Name }

// NetNS is the name of the node's network namespace.
func (n *Node) NetNS() string { return n.machine.netns }

// Root is where the test finds the node's files, with everything mounted there:
// Root()+"/var/log/pods" is the node's /var/log/pods, Root()+ContainerdAddress its containerd. It
// is valid while the node runs.
func (n *Node) Root() string { return n.machine.root() }

// Path translates a path on the node for the test.
func (n *Node) Path(path string) string { return filepath.Join(n.Root(), path) }

// WriteFile writes a file on the node and creates its folder.
func (n *Node) WriteFile(path string, content []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(n.Path(path)), 0o755); err != nil {
		return fmt.Errorf("making folder on node %q: %w", n.Name, err)
	}
	if err := os.WriteFile(n.Path(path), content, mode); err != nil {
		return fmt.Errorf("writing file on node %q: %w", n.Name, err)
	}
	return nil
}

// Command prepares a program inside all namespaces of the node, with the bed's programs in PATH.
func (n *Node) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return n.machine.command(ctx, n.env(), name, args...)
}

// Output runs a program inside the node and returns its output.
func (n *Node) Output(ctx context.Context, name string, args ...string) (string, error) {
	return output(n.Command(ctx, name, args...))
}

func (n *Node) env() []string {
	return []string{"PATH=" + n.path + n.cluster.searchPath()}
}

// AddPath prepends a folder to the PATH of programs that are started on the node from now on.
func (n *Node) AddPath(dir string) error {
	n.path = dir + ":" + n.path
	return n.cluster.run.update(func(r *record) { r.machine(n.Name).Path = n.path + n.cluster.searchPath() })
}

// Dial connects from inside the node's network namespace, like a program on the node. The address
// must be an IP address with a port.
func (n *Node) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return n.machine.dial(ctx, network, address)
}

// Start starts a program inside the node; its output goes to a log file of the cluster.
func (n *Node) Start(s Spec) (*Process, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if old := n.procs[s.Name]; old != nil && old.Running() {
		return nil, fmt.Errorf("starting %q on %q: it runs already", s.Name, n.Name)
	}
	p, err := n.machine.start(n.env(), s)
	if err == nil {
		n.procs[s.Name] = p
	}
	return p, err
}

// Process returns a process of the node's by name: "containerd", "nodeagent", "kubelet",
// "kube-proxy" or what the test has started; nil if there is none.
func (n *Node) Process(name string) *Process {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.procs[name]
}

// RestartContainerd kills containerd like a crash, starts it again and waits until it answers.
// Shims and containers live on.
func (n *Node) RestartContainerd(ctx context.Context) error {
	p := n.Process("containerd")
	if err := p.Kill(); err != nil {
		return err
	}
	if err := p.Start(); err != nil {
		return err
	}
	return n.waitContainerd(ctx, p)
}

// ImportImage imports an OCI layout tar into the node's containerd, for pods to use.
func (n *Node) ImportImage(ctx context.Context, tar string) error {
	_, err := n.Output(ctx, "ctr", "-n", "k8s.io", "images", "import", tar)
	return err
}

// Mounts lists the mount points inside the node, without those of every machine.
func (n *Node) Mounts() ([]string, error) {
	info, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", n.machine.holder.PID))
	if err != nil {
		return nil, fmt.Errorf("listing mounts of node %q: %w", n.Name, err)
	}
	var out []string
	for line := range strings.Lines(string(info)) {
		p := strings.Fields(line)[4]
		for _, below := range []string{"/run/", "/var/lib/kubelet/", "/var/lib/containerd/", "/var/lib/nodeagent/", "/var/log/", "/tmp/"} {
			if strings.HasPrefix(p, below) {
				out = append(out, p)
			}
		}
	}
	return out, nil
}

// WaitReady waits until the API reports the node Ready. It gives up at once if one of the node's
// programs has ended.
func (n *Node) WaitReady(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	n.mu.Lock()
	for _, p := range n.procs {
		done := p.Done()
		go func() {
			select {
			case <-done:
				cancel(fmt.Errorf("%s has ended (%w): %s", p.Name(), p.Err(), logTail(p.Log(), 10)))
			case <-ctx.Done():
			}
		}()
	}
	n.mu.Unlock()
	if err := n.cluster.WaitNodeReady(ctx, n.NodeNet, limit); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return fmt.Errorf("waiting for node %q to be Ready: %w", n.Name, cause)
		}
		return err
	}
	return nil
}

// WaitNodeReady waits until the API reports the node Ready, and sets its pod CIDR there.
func (c *Cluster) WaitNodeReady(ctx context.Context, n NodeNet, limit time.Duration) error {
	patched := false
	err := poll(ctx, limit, 100*time.Millisecond, func(ctx context.Context) error {
		out, err := c.Kubectl(ctx, "get", "node", n.Name, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status} {.status.conditions[?(@.type=="Ready")].message}`)
		if err != nil {
			return err
		}
		if !patched {
			patch := fmt.Sprintf(`{"spec":{"podCIDR":%q,"podCIDRs":[%q]}}`, n.Pods, n.Pods)
			if _, err := c.Kubectl(ctx, "patch", "node", n.Name, "-p", patch); err != nil {
				return err
			}
			patched = true
		}
		if !strings.HasPrefix(out, "True") {
			return fmt.Errorf("its condition Ready is %q", out)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("waiting for node %q to be Ready: %w", n.Name, err)
	}
	return nil
}

// Freeze suspends a process with SIGSTOP and returns a function that resumes it.
func Freeze(p *Process) (thaw func() error, err error) {
	if err := p.Signal(unix.SIGSTOP); err != nil {
		return nil, err
	}
	return func() error { return p.Signal(unix.SIGCONT) }, nil
}
