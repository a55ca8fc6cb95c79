// Command bed starts and stops test clusters by hand: `bed up`, `bed down`; see `bed help`.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/test/bed/tools"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{
		Use:           "bed",
		Short:         "Real clusters on this machine, each in network namespaces of its own",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(upCommand(), benchCommand(), downCommand(), listCommand(), execCommand(), envCommand(), logsCommand(), sweepCommand(), depsCommand(), toolsCommand())
	if err := root.ExecuteContext(ctx); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "bed:", err)
		stop()
		os.Exit(1)
	}
}

func depsCommand() *cobra.Command {
	var check bool
	cmd := &cobra.Command{
		Use:   "deps",
		Short: "Install the Debian packages that the test bed needs",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !check {
				return tools.InstallPackages(cmd.Context(), cmd.OutOrStdout())
			}
			missing, err := tools.MissingPackages(cmd.Context())
			if err != nil {
				return err
			}
			if len(missing) > 0 {
				return fmt.Errorf("checking packages: missing %q; run `bed deps` as root", missing)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "only say what is missing; exit status 1 if anything is")
	return cmd
}

func toolsCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "tools [NAME…]",
		Short: "Build programs of the test bed into the cache and print their paths",
		Long:  "Builds the named programs, or those that a cluster needs, into the cache folder and prints their paths.",
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case all && len(args) > 0:
				return errors.New("building programs: --all takes no names")
			case all:
				args = tools.Names()
			case len(args) == 0:
				args = append(tools.ControlPlane(), tools.Node()...)
			}
			return printTools(cmd.Context(), cmd.ErrOrStderr(), cmd.OutOrStdout(), args)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "every program, also those only for tests (ten minutes when nothing is cached)")
	return cmd
}

func printTools(ctx context.Context, log, out io.Writer, names []string) error {
	b, err := tools.New(log)
	if err != nil {
		return err
	}
	paths, err := b.Build(ctx, names...)
	if err != nil {
		return err
	}
	for _, n := range paths.Names() {
		_, _ = fmt.Fprintln(out, n, paths.Get(n))
	}
	return nil
}
