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
		Use:           "nodeagent",
		Short:         "One daemon in the place of kubelet and kube-proxy",
		Version:       version.Kubernetes(),
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
	}
	root.SetVersionTemplate("Kubernetes {{.Version}}\n")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(joinCommand(), preflightCommand(), resetCommand(), configCommand(), versionCommand())
	root.AddCommand(daemonCommands()...)
	return root
}

func versionCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if output != "json" {
				_, err := fmt.Fprintln(c.OutOrStdout(), version.Kubernetes())
				return err
			}
			return json.NewEncoder(c.OutOrStdout()).Encode(map[string]string{
				"agent": version.Agent(), "kubernetes": version.Kubernetes(), "userAgent": version.UserAgent(),
			})
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return c
}
