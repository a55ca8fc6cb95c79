package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nodeagent/nodeagent/pkg/agent"
	"github.com/nodeagent/nodeagent/pkg/bootstrap"
	"github.com/nodeagent/nodeagent/pkg/bootstrap/unit"
	"github.com/nodeagent/nodeagent/pkg/config"
)

type resetFlags struct {
	config                      config.Flags
	yes, images                 bool
	unit, settingsFile, envFile string
}

func resetCommand() *cobra.Command {
	var f resetFlags
	c := &cobra.Command{
		SuggestFor: []string{"uninstall", "remove", "leave", "delete", "cleanup"},
		Use:        "reset [--yes] [flags of run]",
		Short:      "Take the agent off this machine: daemon, pods, rules, identity, state",
		Long: `Take the agent off this machine: stop and disable the daemon; remove its pods with their containers, volumes, addresses, cgroups
and logs; its Service rules; its certificates, kubeconfig and settings; its state. What is not its own is left, as are images (but
see --images) and kernel parameters. It says what it did. Run again, it finds what an interrupted run left, or nothing.
Pods are killed, not asked: drain the node first to give them time, and delete its Node object afterwards.
The flags that the daemon runs with are read from its files; give those of run only where these are gone.`,
		Example: `  kubectl drain n1 --ignore-daemonsets && nodeagent reset --yes
  nodeagent reset --yes --images`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error { return f.run(c) },
	}
	fs := c.Flags()
	fs.BoolVarP(&f.yes, "yes", "y", false, "do not ask")
	fs.BoolVar(&f.images, "images", false, "remove images too: all of the containerd namespace")
	fs.StringVar(&f.unit, "unit", "nodeagent.service", "systemd unit of the daemon")
	fs.StringVar(&f.settingsFile, "settings-file", "/etc/nodeagent/00-cluster.yaml", "file that join wrote the cluster's settings to")
	fs.StringVar(&f.envFile, "env-file", "/etc/default/nodeagent", "file that join wrote the daemon's flags to")
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
	if !f.yes {
		if err := confirm(c, cfg, f.images); err != nil {
			return err
		}
	}
	var things int
	err = agent.Reset(c.Context(), agent.ResetConfig{
		Config: &cfg, Stop: unit.New(f.unit).Stop, Images: f.images, Settings: f.settingsFile, Env: f.envFile,
		Did: func(what string) {
			things++
			_, _ = fmt.Fprintln(c.OutOrStdout(), what)
		},
		Log: slog.New(slog.NewTextHandler(c.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelError})), Now: time.Now,
	})
	switch {
	case err != nil:
		return err
	case things == 0:
		_, err = fmt.Fprintln(c.OutOrStdout(), "nothing of nodeagent is on this machine")
	default:
		_, err = fmt.Fprintf(c.OutOrStdout(), "done. The Node object stays: kubectl delete node %s\n", cfg.Node.Name)
	}
	return err
}

// daemonFlags are those that the unit gives the daemon, then those given here, which win.
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
