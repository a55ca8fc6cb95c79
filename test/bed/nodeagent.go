package bed

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/nodeagent/nodeagent/test/bed/tools"
)

// NodeAgent is a node that runs the product: `nodeagent join` with a bootstrap token, then
// `nodeagent run`.
type NodeAgent struct {
	// Dir is the folder of the product's programs; default: built from the source tree.
	Dir string
	// Config holds YAML documents (KubeletConfiguration, KubeProxyConfiguration,
	// NodeAgentConfiguration) that override the cluster's and the bed's.
	Config string
	// Args are additional flags of `nodeagent run`.
	Args []string
	// Servers are the API server addresses to join by, comma-separated; default: the cluster's own.
	Servers string
}

// nodeAgentConfigDir is the agent's --config.
const nodeAgentConfigDir = "/etc/nodeagent"

// NodeSettingsFile holds Node.KubeletSettings on every node that shares this machine's kernel. It
// is written before anything starts there.
const NodeSettingsFile = nodeAgentConfigDir + "/20-node.yaml"

// Tools implements Kind: the agent needs only the product's own programs.
func (NodeAgent) Tools() []string { return nil }

// Programs builds the product's programs, everything below cmd, and returns their folder.
func Programs(ctx context.Context, b *tools.Builder) (string, error) {
	entries, err := os.ReadDir(filepath.Join(b.Source, "cmd"))
	if err != nil {
		return "", fmt.Errorf("listing the product's programs: %w", err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return b.Product(ctx, names...)
}

// programs returns the folder of the product's programs.
func (a NodeAgent) programs(ctx context.Context, c *Cluster) (string, error) {
	if a.Dir != "" {
		return filepath.Abs(a.Dir)
	}
	return Programs(ctx, c.Builder())
}

// Start implements Kind.
func (a NodeAgent) Start(ctx context.Context, n *Node) error {
	c := n.Cluster()
	dir, err := a.programs(ctx, c)
	if err != nil {
		return err
	}
	if err := n.AddPath(dir); err != nil {
		return err
	}
	if err := a.configure(n); err != nil {
		return err
	}
	agent := a.run(dir)
	out, err := n.Output(ctx, agent.Path, "join", cmp.Or(a.Servers, c.Server()), "--token", c.Token(), "--discovery-token-ca-cert-hash", c.CAHash(), "--no-start")
	c.logf("%s: nodeagent join %s\n%s", n.Name, c.Server(), out)
	if err != nil {
		return err
	}
	_, err = n.Start(agent)
	return err
}

// run describes the agent as a process of the node, with the programs of a folder. The agent finds
// the node's address itself, as on most machines; a User-Mode Linux node gets its address.
func (a NodeAgent) run(dir string) Spec {
	args := append([]string{"run", "--config", nodeAgentConfigDir}, a.Args...)
	return Spec{Name: "nodeagent", Path: filepath.Join(dir, "nodeagent"), Args: args}
}

// StartProxy starts only the services half, as a separate process, on a node of this kind whose
// agent is stopped.
func (a NodeAgent) StartProxy(ctx context.Context, n *Node) (*Process, error) {
	dir, err := a.programs(ctx, n.Cluster())
	if err != nil {
		return nil, err
	}
	spec := a.run(dir)
	spec.Name = "nodeagent-proxy"
	spec.Args = append(spec.Args, "--pods", "off")
	return n.Start(spec)
}

// configure writes the settings of the bed and the test. Join reads the cluster's settings and
// writes them to the same folder, under a name that sorts first.
func (a NodeAgent) configure(n *Node) error {
	for name, content := range map[string]string{
		"30-proxy.yaml": proxySettings(""),
		"40-test.yaml":  a.Config,
	} {
		if err := n.WriteFile(filepath.Join(nodeAgentConfigDir, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}
