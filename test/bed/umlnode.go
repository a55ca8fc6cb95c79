package bed

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/nodeagent/nodeagent/test/bed/images"
	"github.com/nodeagent/nodeagent/test/bed/tools"
	"github.com/nodeagent/nodeagent/test/bed/uml"
)

// UMLNode is a User-Mode Linux machine on the cluster's bridge: it has its own kernel with cgroup
// v2, ip_vs and systemd, a running containerd and CNI. Tests can reboot it and cut its power. It
// ends with the cluster.
type UMLNode struct {
	NodeNet
	*uml.Machine
	cluster *Cluster
}

// UMLCommand is a command for Run of such a machine.
type UMLCommand = uml.Command

// AddUML boots a machine with pause, busybox and a small agnhost in its containerd. The first call
// prepares the disk, which takes minutes; afterwards a machine is up in about ten seconds.
func (c *Cluster) AddUML(ctx context.Context, name string) (*UMLNode, error) {
	disk, err := c.umlDisk(ctx)
	if err != nil {
		return nil, err
	}
	place, err := c.ReserveNode(ctx, name)
	if err != nil {
		return nil, err
	}
	m, err := uml.Start(ctx, uml.Options{
		Name: name, Dir: c.run.path(name), Disk: disk, Netns: c.cp.netns, Bridge: Bridge,
		Address: netip.PrefixFrom(place.IP, 24), Gateway: place.Gateway,
	})
	if err != nil {
		return nil, fmt.Errorf("starting node %q: %w", name, err)
	}
	u := &UMLNode{NodeNet: place, Machine: m, cluster: c}
	return u, errors.Join(
		u.WriteFile(ctx, "/etc/cni/net.d/10-bed.conflist", []byte(place.CNIConfig()), 0o644),
		u.WriteFile(ctx, "/etc/resolv.conf", []byte("nameserver "+controlPlaneIP+"\n"), 0o644),
	)
}

// Cluster is the cluster that the node belongs to.
func (u *UMLNode) Cluster() *Cluster { return u.cluster }

// umlDisk prepares the disk that every machine copies.
func (c *Cluster) umlDisk(ctx context.Context) (string, error) {
	b := c.opts.Builder
	programs, err := b.Build(ctx, append(tools.Node(), "agnhost")...)
	if err != nil {
		return "", err
	}
	small, err := images.BuildSmall(ctx, b.Cache, images.ToolPaths{Agnhost: programs.Get("agnhost")})
	if err != nil {
		return "", fmt.Errorf("assembling images for User-Mode Linux: %w", err)
	}
	d := uml.Disk{Programs: map[string]string{}, CNI: programs.CNIDir(), Images: images.Archives(small)}
	for _, n := range []string{"containerd", "containerd-shim-runc-v2", "ctr", "runc"} {
		d.Programs[n] = programs.Get(n)
	}
	disk, err := uml.PrepareDisk(ctx, b.Cache, d)
	if err != nil {
		return "", fmt.Errorf("preparing a disk for User-Mode Linux: %w", err)
	}
	return disk, nil
}

// InstallNodeAgent installs the product on the machine like `make install` and joins it: systemd
// starts the daemon, and join returns when the node is Ready. It returns join's output even if it
// fails.
func (u *UMLNode) InstallNodeAgent(ctx context.Context, a NodeAgent) (string, error) {
	dir, err := a.programs(ctx, u.cluster)
	if err != nil {
		return "", err
	}
	source := u.cluster.Builder().Source
	for _, name := range []string{"nodeagent", "nodeagent-pump"} {
		if err := u.CopyTo(ctx, filepath.Join(dir, name), "/usr/local/bin/"+name); err != nil {
			return "", err
		}
	}
	if err := u.CopyTo(ctx, filepath.Join(source, "systemd/nodeagent.service"), "/etc/systemd/system/nodeagent.service"); err != nil {
		return "", err
	}
	files := map[string]string{"20-bed.yaml": umlSettings, "40-test.yaml": a.Config}
	for name, content := range files {
		if err := u.WriteFile(ctx, filepath.Join(nodeAgentConfigDir, name), []byte(content), 0o644); err != nil {
			return "", err
		}
	}
	if _, err := u.Output(ctx, "systemctl", "daemon-reload"); err != nil {
		return "", err
	}
	join := append([]string{
		"nodeagent", "join", u.cluster.Server(), "--config", nodeAgentConfigDir, "--node-ip", u.IP.String(),
		"--token", u.cluster.Token(), "--discovery-token-ca-cert-hash", u.cluster.CAHash(), "--timeout", "2m",
	}, a.Args...)
	result, err := u.Exec(ctx, join...)
	text := result.Stdout + result.Stderr
	if err == nil && result.Code != 0 {
		journal, _ := u.Output(ctx, "journalctl", "-u", "nodeagent", "-n", "20", "--no-pager")
		err = fmt.Errorf("joining %q: exit status %d: %s\n%s", u.NodeNet.Name, result.Code, text, journal)
	}
	return text, err
}

// umlSettings are the settings of a small machine under systemd.
const umlSettings = kubeletKind + "cgroupDriver: systemd\nfailSwapOn: false\nevictionHard: {memory.available: 10Mi}\n"

// WaitReady waits until the API reports the node Ready.
func (u *UMLNode) WaitReady(ctx context.Context, limit time.Duration) error {
	return u.cluster.WaitNodeReady(ctx, u.NodeNet, limit)
}

// StartKubeProxy starts upstream's kube-proxy as a unit of that name, with settings added to its
// KubeProxyConfiguration.
func (u *UMLNode) StartKubeProxy(ctx context.Context, mode, settings string) error {
	programs, err := u.cluster.Builder().Build(ctx, "kube-proxy")
	if err != nil {
		return err
	}
	kubeconfig, err := u.cluster.proxyKubeconfig(ctx)
	if err != nil {
		return err
	}
	config := proxySettings(mode) + "clientConnection: {kubeconfig: /etc/kubernetes/kube-proxy.conf}\n" + settings
	if err := errors.Join(
		u.CopyTo(ctx, programs.Get("kube-proxy"), "/usr/local/bin/kube-proxy"),
		u.WriteFile(ctx, "/etc/kubernetes/kube-proxy.conf", []byte(kubeconfig), 0o600),
		u.WriteFile(ctx, "/var/lib/kube-proxy/config.yaml", []byte(config), 0o600),
		u.WriteFile(ctx, "/etc/systemd/system/kube-proxy.service", []byte("[Service]\nExecStart=/usr/local/bin/kube-proxy "+
			"--config=/var/lib/kube-proxy/config.yaml --hostname-override="+u.NodeNet.Name+"\n"), 0o644),
	); err != nil {
		return err
	}
	_, err = u.Output(ctx, "sh", "-c", "systemctl daemon-reload && systemctl start kube-proxy")
	return err
}
