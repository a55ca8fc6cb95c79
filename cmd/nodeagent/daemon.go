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
	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/server"
	"github.com/nodeagent/nodeagent/pkg/version"
)

// daemonCommands are the verbs of the daemon itself, and those that ask it or stand in for it: run,
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
It tells systemd when it is ready, and ends on SIGTERM; pods and Service rules stay as they are then.`,
		Args: noArguments,
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
	logClient(log, loaded.Log)
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
	// The heap is small and mostly short-lived: collecting it at half the usual growth costs little
	// and keeps it so.
	debug.SetGCPercent(50)
	if c.Server.Profiling && c.Server.Contention {
		runtime.SetBlockProfileRate(1)
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(c.Cgroups.OOMScoreAdj)), 0o600); err != nil {
		log.Warn("The kernel does not take oomScoreAdj: with little memory it may end the agent before pods", "wanted", c.Cgroups.OOMScoreAdj, "err", err)
	}
}

// newLogger writes to standard error; systemd and Kubernetes' tools collect it from there. Level is
// klog's verbosity, which client-go's words have each; the agent's own are what happens (0) and
// details (4).
func newLogger(c config.Log) *slog.Logger {
	o := &slog.HandlerOptions{Level: slog.Level(-c.Level)}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, o))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, o))
}

// logClient has client-go write to the log what its verbosity lets through: from 6 on each request,
// 7 its headers, 8 its body.
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
	c.Flags().VarP(&output, "output", "o", "how to print")
	daemonFlags(c, &flags, "run-dir", "status-socket")
	return c
}
