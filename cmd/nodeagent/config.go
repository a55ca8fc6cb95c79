package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/pkg/config"
)

func configCommand() *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Look at the configuration"}
	c.AddCommand(configCheckCommand(), configShowCommand("show", "Print the configuration as the daemon would use it"),
		configDefaultsCommand())
	return c
}

func configCheckCommand() *cobra.Command {
	var flags config.Flags
	c := &cobra.Command{
		Use:   "check --config FILE|FOLDER [flags of run]",
		Short: "Report what is wrong, and what is known but has no effect here",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_, notes, err := config.Load(&flags)
			for _, n := range notes {
				if _, err := fmt.Fprintln(c.OutOrStdout(), n); err != nil {
					return err
				}
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "ok: %d fields without effect\n", len(notes))
			return err
		},
	}
	flags.AddFlags(c.Flags())
	return c
}

func configShowCommand(use, short string) *cobra.Command {
	var flags config.Flags
	c := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return showConfig(c, &flags) },
	}
	flags.AddFlags(c.Flags())
	return c
}

func configDefaultsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "defaults",
		Short: "Print the configuration without any file or flag",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return showConfig(c, &config.Flags{}) },
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
