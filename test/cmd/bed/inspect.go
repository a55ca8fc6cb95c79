package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/test/bed"
)

func listCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "Name the clusters that are in use",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ids, err := bed.List()
			for _, id := range ids {
				_, _ = fmt.Fprintln(cmd.OutOrStdout(), id)
			}
			return err
		},
	}
}

func sweepCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "sweep",
		Short: "Remove what killed runs left; every start does it too",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return bed.Sweep(cmd.Context()) },
	}
}

func envCommand() *cobra.Command {
	var id string
	cmd := &cobra.Command{
		Use:   "env",
		Short: "Print KUBECONFIG, PATH, BED_ID and BED_NETNS of a cluster, for eval in a shell",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			env, err := bed.Env(id)
			for _, e := range env {
				_, _ = fmt.Fprintf(cmd.OutOrStdout(), "export '%s'\n", e)
			}
			return err
		},
	}
	idFlag(cmd, &id)
	return cmd
}

func logsCommand() *cobra.Command {
	var id string
	cmd := &cobra.Command{
		Use:   "logs",
		Short: "Name the log files of a cluster",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			files, err := filepath.Glob(filepath.Join(bed.BaseDir(), id, "log", "*"))
			for _, f := range files {
				_, _ = fmt.Fprintln(cmd.OutOrStdout(), f)
			}
			return err
		},
	}
	idFlag(cmd, &id)
	return cmd
}

func execCommand() *cobra.Command {
	var id string
	cmd := &cobra.Command{
		Use:   "exec MACHINE [--] COMMAND [ARG…]",
		Short: `Run a program on a machine of a cluster: "cp", the control plane, or a node such as "n1"`,
		Args:  cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			command := args[1:]
			if command[0] == "--" && len(command) > 1 {
				command = command[1:]
			}
			run, err := bed.MachineCommand(cmd.Context(), id, args[0], command)
			if err != nil {
				return err
			}
			run.Stdin, run.Stdout, run.Stderr = os.Stdin, os.Stdout, os.Stderr
			err = run.Run()
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				os.Exit(exit.ExitCode())
			}
			return err
		},
	}
	cmd.Flags().SetInterspersed(false)
	idFlag(cmd, &id)
	return cmd
}
