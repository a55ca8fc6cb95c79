package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/pkg/version"
)

// rootCommand lists every verb.
func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "nodeagent",
		Short: "One daemon that replaces kubelet and kube-proxy",
		Example: `  nodeagent preflight                                             # can this machine be a node?
  nodeagent join 10.0.0.10:6443 --token … --discovery-token-ca-cert-hash sha256:…
  nodeagent status                                                # what runs here
  nodeagent reset                                                 # remove it from this machine again`,
		Version:       version.Kubernetes(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetVersionTemplate("Kubernetes {{.Version}}\n")
	root.SetFlagErrorFunc(wrongFlag)
	root.SetUsageFunc(usage)
	root.AddCommand(joinCommand(), preflightCommand(), resetCommand(), configCommand(), versionCommand())
	root.AddCommand(daemonCommands()...)
	return root
}

func versionCommand() *cobra.Command {
	output := oneOf("text", "json")
	c := &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  nodeagent version -o json",
		Args:    noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			if output.value == "text" {
				_, err := fmt.Fprintln(c.OutOrStdout(), version.Kubernetes())
				return err
			}
			return json.NewEncoder(c.OutOrStdout()).Encode(map[string]string{
				"agent": version.Agent(), "kubernetes": version.Kubernetes(), "userAgent": version.UserAgent(),
			})
		},
	}
	c.Flags().VarP(&output, "output", "o", "output format")
	return c
}
