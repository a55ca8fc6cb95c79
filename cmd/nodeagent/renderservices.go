package main

import (
	"fmt"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/proxier/modes"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
	"github.com/nodeagent/nodeagent/pkg/render"
)

type renderServicesFlags struct {
	config config.Flags
	files  []string
	mode   choice
	family choice
	node   string
	zone   string
	view   choice
}

func renderServicesCommand() *cobra.Command {
	f := &renderServicesFlags{
		mode: choice{among: previews()}, family: oneOf(string(corev1.IPv4Protocol), string(corev1.IPv6Protocol)),
		view: oneOf("rules", "snapshot"),
	}
	c := &cobra.Command{
		Use:   "services -f FILE [--node NAME] [flags of run]",
		Short: "Print the rules for the Services and EndpointSlices in a file, as iptables-restore or nft -f takes them",
		Long: `Print the rules for the Services and EndpointSlices in a file, as iptables-restore or nft -f takes them. Which endpoints are
local, and the node's addresses and zone, are taken from its Node in the file. What was left out is told on standard error.`,
		Example: `  nodeagent render services -f services.yaml --node n1 --zone a --cluster-cidr 10.244.0.0/16
  kubectl get services,endpointslices,nodes -A -o yaml | nodeagent render services -f - --node n1 --view snapshot`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error { return f.run(c) },
	}
	fs := c.Flags()
	fs.StringArrayVarP(&f.files, "filename", "f", nil, `file with YAML or JSON documents, "-" for standard input; may be given several times`)
	fs.Var(&f.mode, "mode", "the proxy mode that the rules are for (default: that of the configuration)")
	fs.Var(&f.family, "family", "the family of addresses")
	fs.StringVar(&f.node, "node", "", "name of the node that the rules are for (default: the only Node in the files)")
	fs.StringVar(&f.zone, "zone", "", "its zone (default: its label "+corev1.LabelTopologyZone+")")
	fs.Var(&f.view, "view", "rules, or which endpoints each port uses on this node")
	daemonFlags(c, &f.config, "config", "cluster-cidr", "node-ip")
	return c
}

// previews are the modes that can show their rules.
func previews() (names []string) {
	for _, m := range modes.All() {
		if m.Preview != nil {
			names = append(names, string(m.Name))
		}
	}
	return names
}

// row is that of --mode, or of the mode that the configuration asks for; where the proxy is off,
// that of the default one.
func (f *renderServicesFlags) row(asked config.ProxyMode) modes.Mode {
	switch {
	case f.mode.value != "":
		asked = config.ProxyMode(f.mode.value)
	case asked == config.ProxyOff:
		asked = config.ProxyIPTables
	}
	return modes.Programmed(asked)
}

func (f *renderServicesFlags) run(c *cobra.Command) error {
	if f.mode.value != "" {
		if err := c.Flags().Set("proxy-mode", f.mode.value); err != nil {
			return err
		}
	}
	cfg, _, err := config.Load(&f.config)
	if err != nil {
		return err
	}
	family := corev1.IPFamily(f.family.value)
	objects, err := readObjects(c.InOrStdin(), c.ErrOrStderr(), f.files)
	if err != nil {
		return err
	}
	n := snapshot.Node{Name: f.node}
	if object := objects.Node(f.node); object != nil {
		n = snapshot.NodeOf(object)
	}
	if f.zone != "" {
		n.Zone = f.zone
	}
	if len(cfg.Node.IPs) > 0 {
		n.Addresses = cfg.Node.IPs
	}
	rules, err := render.Services(objects, n, snapshot.NewBuilder(family, modes.NodePorts(cfg.Proxy)))
	if err != nil {
		return err
	}
	if n.Name == "" {
		rules.Notes = append(rules.Notes, "no node is named: no endpoint counts as local (--node, or a Node in the file)")
	}
	for _, note := range rules.Notes {
		fmt.Fprintln(c.ErrOrStderr(), "#", note)
	}
	if f.view.value == "snapshot" {
		_, err = fmt.Fprint(c.OutOrStdout(), rules.Snapshot)
		return err
	}
	preview := f.row(cfg.Proxy.Mode).Preview(modes.Config{Proxy: cfg.Proxy, UtilChains: cfg.Network.UtilChains}, rules.Snapshot)
	if _, err := fmt.Fprint(c.OutOrStdout(), preview); err != nil {
		return fmt.Errorf("writing the rules: %w", err)
	}
	return nil
}
