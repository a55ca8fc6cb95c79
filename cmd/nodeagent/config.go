package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/pkg/config"
)

func configCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "config", Short: "Check or print the configuration",
		Example: `  nodeagent config check --config /etc/nodeagent
  nodeagent config show --config /etc/nodeagent`,
	}
	c.AddCommand(configCheckCommand(), configShowCommand(), configDefaultsCommand())
	return c
}

func configCheckCommand() *cobra.Command {
	var flags config.Flags
	c := &cobra.Command{
		Use:   "check --config FILE|FOLDER [flags of run]",
		Short: "Report settings that are wrong or have no effect here",
		Long: `Report settings that are wrong or have no effect here: every setting that the daemon would not use as it is, with what happens
instead. The exit code is 2 for wrong values and for unknown fields, each of which is listed. It changes nothing and contacts nobody.`,
		Example: `  nodeagent config check --config /etc/nodeagent
  nodeagent config check --config /var/lib/kubelet/config.yaml --node-labels pool=a`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			_, notes, err := config.Load(&flags)
			mistakes := 0
			for _, n := range notes {
				if _, err := fmt.Fprintln(c.OutOrStdout(), n); err != nil {
					return err
				}
				if n.Mistake {
					mistakes++
				}
			}
			switch {
			case err != nil:
				return err
			case mistakes > 0:
				return usageError{fmt.Errorf("checking the configuration: of the fields above, %d are unknown or given twice; "+
					"the daemon would go on without them, as kubelet and kube-proxy do", mistakes)}
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "ok: %d settings are not used as they are\n", len(notes))
			return err
		},
	}
	daemonFlags(c, &flags, "config")
	return c
}

func configShowCommand() *cobra.Command {
	var flags config.Flags
	c := &cobra.Command{
		Use:     "show --config FILE|FOLDER [flags of run]",
		Short:   "Print the configuration as the daemon would use it",
		Example: "  nodeagent config show --config /etc/nodeagent | grep Proxy",
		Args:    noArguments,
		RunE:    func(c *cobra.Command, _ []string) error { return showConfig(c, &flags) },
	}
	daemonFlags(c, &flags, "config")
	return c
}

func configDefaultsCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "defaults",
		Short:   "Print the configuration without any file or flag",
		Example: "  nodeagent config defaults",
		Args:    noArguments,
		RunE:    func(c *cobra.Command, _ []string) error { return showConfig(c, &config.Flags{}) },
	}
}

func showConfig(c *cobra.Command, flags *config.Flags) error {
	loaded, _, err := config.Load(flags)
	if err != nil {
		return err
	}
	for _, line := range config.Lines(loaded) {
		if _, err := fmt.Fprintln(c.OutOrStdout(), line); err != nil {
			return err
		}
	}
	return nil
}
