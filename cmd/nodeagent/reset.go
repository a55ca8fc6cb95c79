package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nodeagent/nodeagent/pkg/bootstrap"
	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/reset"
	"github.com/nodeagent/nodeagent/pkg/reset/machine"
)

type resetFlags struct {
	config                      config.Flags
	yes, images, dryRun         bool
	unit, settingsFile, envFile string
}

func resetCommand() *cobra.Command {
	var f resetFlags
	c := &cobra.Command{
		SuggestFor: []string{"uninstall", "remove", "leave", "delete", "cleanup"},
		Use:        "reset [--yes | --dry-run] [flags of run]",
		Short:      "Take the agent off this machine: daemon, pods, rules, identity, state",
		Long: `Take the agent off this machine: stop and disable the daemon; remove its pods with their containers, volumes, addresses, cgroups
and logs; its Service rules; its certificates, kubeconfig and settings; its state. It keeps what others made, images (unless
--images is given) and kernel parameters, and prints each step. Run again, it goes on where an interrupted reset stopped.
Pods are killed without a grace period: drain the node first to give them time, and delete its Node object afterwards.
reset reads the daemon's flags from the daemon's files; give flags of run only if these files are gone.`,
		Example: `  nodeagent reset --dry-run                                       # what would be removed
  kubectl drain n1 --ignore-daemonsets && nodeagent reset --yes
  nodeagent reset --yes --images`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error { return f.run(c) },
	}
	fs := c.Flags()
	fs.BoolVarP(&f.yes, "yes", "y", false, "do not ask")
	fs.BoolVar(&f.dryRun, "dry-run", false, "print the steps that are needed; change nothing")
	fs.BoolVar(&f.images, "images", false, "remove all images of the containerd namespace, too")
	fs.StringVar(&f.unit, "unit", "nodeagent.service", "systemd unit of the daemon")
	fs.StringVar(&f.settingsFile, "settings-file", "/etc/nodeagent/00-cluster.yaml", "file to which join wrote the cluster's settings")
	fs.StringVar(&f.envFile, "env-file", "/etc/default/nodeagent", "file to which join wrote the daemon's flags")
	daemonFlags(c, &f.config, "config", "root-dir", "run-dir", "cgroup-root")
	fs.SetNormalizeFunc(joinAliases)
	return c
}

func (f *resetFlags) run(c *cobra.Command) error {
	if os.Geteuid() != 0 {
		return &bootstrap.Error{Code: bootstrap.CodeHost, Err: fmt.Errorf("resetting: this is user id %d, not root", os.Geteuid()), Next: "run it as root"}
	}
	flags, err := f.daemonFlags()
	if err != nil {
		return err
	}
	cfg, _, err := config.Load(flags)
	if err != nil {
		return err
	}
	if !f.yes && !f.dryRun {
		if err := confirm(c, cfg, f.images); err != nil {
			return err
		}
	}
	// the steps are printed; of the parts' own logs only errors are
	log := slog.New(slog.NewTextHandler(c.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelError}))
	r, err := machine.New(machine.Config{
		Config: &cfg, Options: reset.Options{Images: f.images}, Unit: f.unit, Settings: f.settingsFile, Env: f.envFile,
		Log: log, Now: time.Now, Report: func(e reset.Event) { printEvent(c.OutOrStdout(), e) },
	})
	if err != nil {
		return err
	}
	if f.dryRun {
		return f.plan(c, r)
	}
	did, err := r.Run(c.Context())
	switch {
	case err != nil:
		return err
	case !did:
		_, err = fmt.Fprintln(c.OutOrStdout(), nothing)
	default:
		_, err = fmt.Fprintf(c.OutOrStdout(), "done. The Node object stays: kubectl delete node %s\n", cfg.Node.Name)
	}
	return err
}

const nothing = "nothing of nodeagent is on this machine"

// plan prints what would be done.
func (f *resetFlags) plan(c *cobra.Command, r *reset.Resetter) error {
	steps, err := r.Plan(c.Context())
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(steps, func(s reset.Step) bool { return !s.Maybe }) {
		_, err = fmt.Fprintln(c.OutOrStdout(), nothing)
		return err
	}
	for _, s := range steps {
		if _, err := fmt.Fprintln(c.OutOrStdout(), s); err != nil {
			return err
		}
	}
	return nil
}

// printEvent prints a step that has ended; there is no other place to report a write error.
func printEvent(w io.Writer, e reset.Event) {
	s := e.Step
	what := fmt.Sprintf("[%d/%d] %s", s.Phase, reset.Phases, strings.TrimSpace(string(s.Action)+" "+s.Target))
	if e.State == reset.Kept {
		fmt.Fprintf(w, "%s  %s, since pods are left\n", what, e.State)
		return
	}
	fmt.Fprintf(w, "%s  %s  %s\n", what, e.State, short(e.Took))
}

// daemonFlags are the flags in the unit's environment file, then those of this command, which win.
func (f *resetFlags) daemonFlags() (*config.Flags, error) {
	var args []string
	if _, err := os.Stat("/etc/nodeagent"); err == nil && len(f.config.Paths()) == 0 {
		args = append(args, "--config=/etc/nodeagent")
	}
	text, err := os.ReadFile(f.envFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the daemon's flags: %w", err)
	}
	args = append(args, bootstrap.EnvArgs(string(text))...)
	var all config.Flags
	set := pflag.NewFlagSet("daemon", pflag.ContinueOnError)
	all.AddFlags(set)
	if err := set.Parse(append(args, f.config.Args()...)); err != nil {
		return nil, usageError{fmt.Errorf("reading the daemon's flags in %s: %w", f.envFile, err)}
	}
	return &all, nil
}

func confirm(c *cobra.Command, cfg config.Config, images bool) error {
	what := "pods, Service rules, identity and state"
	if images {
		what = "pods, Service rules, identity, state and all images"
	}
	if _, err := fmt.Fprintf(c.OutOrStdout(), "This takes node %q off its cluster: %s below %s and %s are removed. Go on? [y/N] ",
		cfg.Node.Name, what, cfg.Paths.Root, cfg.Paths.Run); err != nil {
		return err
	}
	answer, err := bufio.NewReader(c.InOrStdin()).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading the answer: %w", err)
	}
	if a := strings.ToLower(strings.TrimSpace(answer)); a != "y" && a != "yes" {
		return usageError{errors.New("nothing was done; to go on without being asked: nodeagent reset --yes")}
	}
	return nil
}
