package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"github.com/nodeagent/nodeagent/pkg/agent"
	"github.com/nodeagent/nodeagent/pkg/bootstrap"
	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/server"
	"github.com/nodeagent/nodeagent/pkg/version"
)

// daemonCommands are the verbs of the daemon, and those that ask it or do a part of its work: run,
// status, render, proxy.
func daemonCommands() []*cobra.Command {
	return []*cobra.Command{runCommand(), statusCommand(), renderCommand(), proxyCommand()}
}

func runCommand() *cobra.Command {
	var flags config.Flags
	c := &cobra.Command{
		SuggestFor: []string{"start", "daemon", "agent", "serve"},
		Use:        "run [--config FILE|FOLDER]…",
		Short:      "Run the daemon: this machine's pods and Services",
		Example: `  nodeagent run --config /etc/nodeagent
  nodeagent run --config /etc/nodeagent --node-ip 10.0.0.5,fd00::5 --node-labels pool=a --v=4
  nodeagent run --config /etc/nodeagent --proxier=off             # a kube-proxy programs Services`,
		Long: `Run the daemon: this machine's pods and Services. It needs an identity: "nodeagent join" makes one.
It notifies systemd when it is ready, and ends on SIGTERM; pods and Service rules stay as they are.`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			return runDaemon(c.Context(), &flags, nil)
		},
	}
	flags.AddFlags(c.Flags())
	return c
}

// runDaemon runs the agent until ctx ends. ignored are the given flags that have no effect.
func runDaemon(ctx context.Context, flags *config.Flags, ignored []string) error {
	loaded, notes, err := config.Load(flags)
	if err != nil {
		return err
	}
	log := newLogger(loaded.Log)
	logClient(log, loaded.Log)
	for _, n := range notes {
		log.Warn("Setting is not used as it is", "setting", n.String())
	}
	for _, name := range ignored {
		log.Warn("Flag of kubelet has no effect", "flag", name, "reason", ignoredWhy(name))
	}
	log.Info("Starting", "version", version.Kubernetes(), "node", loaded.Node.Name, "pid", os.Getpid())
	tune(&loaded, log)
	if err := bootstrap.MakeFolders(&loaded); err != nil {
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

// tune changes settings of the whole process.
func tune(c *config.Config, log *slog.Logger) {
	// The heap is small and mostly short-lived: collecting it at half the usual growth costs
	// little and keeps it small.
	debug.SetGCPercent(50)
	if c.Server.Profiling && c.Server.Contention {
		runtime.SetBlockProfileRate(1)
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(c.Cgroups.OOMScoreAdj)), 0o600); err != nil {
		log.Warn("Setting oomScoreAdj failed: when memory is short the kernel may kill the agent before pods", "oomScoreAdj", c.Cgroups.OOMScoreAdj, "err", err)
	}
}

// newLogger logs to standard error. Level is klog's verbosity, which each of client-go's lines
// has; the agent's own lines are events (0) and details (4).
func newLogger(c config.Log) *slog.Logger {
	o := &slog.HandlerOptions{Level: slog.Level(-c.Level)}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, o))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, o))
}

// logClient sends client-go's log lines up to the configured verbosity to the log: each request
// from 6 on, its headers from 7, its body from 8.
func logClient(log *slog.Logger, c config.Log) {
	var verbosity klog.Level
	_ = verbosity.Set(strconv.Itoa(c.Level)) // it is a number
	klog.SetSlogLogger(log.With("from", "client-go"))
}

func statusCommand() *cobra.Command {
	var flags config.Flags
	output := oneOf("text", "json")
	c := &cobra.Command{
		Use:   "status [flags of run]",
		Short: "Show the running daemon's node, pods, proxy and last errors on one screen",
		Example: `  nodeagent status
  nodeagent status -o json`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			loaded, _, err := config.Load(&flags)
			if err != nil {
				return err
			}
			r, err := server.AskStatus(context.WithoutCancel(c.Context()), loaded.Paths.StatusSocket)
			if err != nil {
				return err
			}
			if output.value == "text" {
				return r.Print(c.OutOrStdout())
			}
			e := json.NewEncoder(c.OutOrStdout())
			e.SetIndent("", "  ")
			return e.Encode(r)
		},
	}
	c.Flags().VarP(&output, "output", "o", "output format")
	daemonFlags(c, &flags, "run-dir", "status-socket")
	return c
}
