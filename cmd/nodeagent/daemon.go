package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"github.com/nodeagent/nodeagent/pkg/agent"
	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/version"
)

// daemonCommands are the verbs of the daemon itself, and those that ask it or stand in for it: run, status, render, proxy.
func daemonCommands() []*cobra.Command {
	return []*cobra.Command{runCommand(), statusCommand(), renderCommand(), proxyCommand()}
}

func runCommand() *cobra.Command {
	var flags config.Flags
	c := &cobra.Command{
		Use:   "run [--config FILE|FOLDER] [--kubeconfig FILE] …",
		Short: "Run the daemon: this machine's pods and Services",
		Long: `Run the daemon: this machine's pods and Services. It needs an identity: "nodeagent join" makes one.
It tells systemd when it is ready, and ends on SIGTERM; pods and Service rules stay as they are then.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return runDaemon(c.Context(), &flags, nil)
		},
	}
	flags.AddFlags(c.Flags())
	return c
}

// runDaemon runs until ctx ends. ignored are flags that were given and have no effect.
func runDaemon(ctx context.Context, flags *config.Flags, ignored []string) error {
	loaded, notes, err := config.Load(flags)
	if err != nil {
		return err
	}
	log := newLogger(loaded.Log)
	klog.SetSlogLogger(log.With("from", "client-go"))
	for _, n := range notes {
		log.Warn("A setting is not taken as it stands", "setting", n.String())
	}
	for _, name := range ignored {
		log.Warn("A flag of kubelet has no effect", "flag", name, "why", ignoredWhy(name))
	}
	log.Info("Starting", "version", version.Kubernetes(), "node", loaded.Node.Name, "pid", os.Getpid())
	tune(&loaded, log)
	if err := agent.MakeFolders(&loaded); err != nil {
		return err
	}
	identity, err := agent.Identity(ctx, &loaded, log)
	if err != nil {
		return err
	}
	a, err := agent.New(agent.Options{Config: &loaded, Identity: identity, Log: log})
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

// tune sets what concerns this process as a whole.
func tune(c *config.Config, log *slog.Logger) {
	// The heap is small and mostly short-lived: collecting it at half the usual growth costs little and keeps it so.
	debug.SetGCPercent(50)
	if c.Server.Profiling && c.Server.Contention {
		runtime.SetBlockProfileRate(1)
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(c.Cgroups.OOMScoreAdj)), 0o600); err != nil {
		log.Warn("The kernel does not take oomScoreAdj: with little memory it may end the agent before pods", "wanted", c.Cgroups.OOMScoreAdj, "err", err)
	}
}

// newLogger writes to standard error; systemd and Kubernetes' tools collect it from there.
func newLogger(c config.Log) *slog.Logger {
	level := slog.LevelInfo
	if c.Level >= 4 {
		level = slog.LevelDebug
	}
	o := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, o))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, o))
}

func statusCommand() *cobra.Command {
	var flags config.Flags
	var output string
	c := &cobra.Command{
		Use:   "status",
		Short: "Show the running daemon's node, pods, proxy and last errors on one screen",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			loaded, _, err := config.Load(&flags)
			if err != nil {
				return err
			}
			r, err := agent.AskSummary(context.WithoutCancel(c.Context()), loaded.Paths.StatusSocket)
			if err != nil {
				return err
			}
			switch output {
			case "text":
				return r.Print(c.OutOrStdout())
			case "json":
				e := json.NewEncoder(c.OutOrStdout())
				e.SetIndent("", "  ")
				return e.Encode(r)
			}
			return usageError{fmt.Errorf("unknown output %q: use text or json", output)}
		},
	}
	flags.AddFlags(c.Flags())
	c.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return c
}
