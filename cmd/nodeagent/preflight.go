package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/pkg/bootstrap"
	"github.com/nodeagent/nodeagent/pkg/bootstrap/unit"
	"github.com/nodeagent/nodeagent/pkg/config"
	"github.com/nodeagent/nodeagent/pkg/hostcheck"
	"github.com/nodeagent/nodeagent/pkg/version"
)

// checkNames are the names of preflight's checks; a test compares them.
const checkNames = "root, hostname, kernel, features, cgroup, containerd, foreign-pods, snapshotter, iptables, cni, swap, ports, api-server, clock, version"

type preflightFlags struct {
	config config.Flags
	ignore checks
	unit   string
	output choice
}

func preflightCommand() *cobra.Command {
	f := preflightFlags{ignore: checks{known: append(strings.Split(checkNames, ", "), "proxy-rbac", "all")}, output: oneOf("text", "json")}
	c := &cobra.Command{
		SuggestFor: []string{"check", "doctor", "precheck", "verify"},
		Use:        "preflight [SERVER[,SERVER…]] [flags of run]",
		Short:      "Check whether this machine can be a node, and change nothing",
		Long: `Check whether this machine is fit to be a node, and change nothing. Every check is made, whatever the others say, and each
problem is told with its remedy. With the address of an API server, its clock and version are compared too.
The checks are ` + checkNames + `.
"nodeagent join" makes the same checks. The exit code is 10 if the machine cannot be a node, 11 if no API server answers, 17 for
versions that do not fit, 20 for clocks that differ.`,
		Example: `  nodeagent preflight
  nodeagent preflight 10.0.0.10:6443 --ignore swap -o json`,
		Args: serversArgument,
		RunE: func(c *cobra.Command, args []string) error { return f.run(c, args) },
	}
	fs := c.Flags()
	fs.Var(&f.ignore, "ignore", "checks whose problems do not count, by name; or all")
	fs.StringVar(&f.unit, "unit", "nodeagent.service", "systemd unit of the daemon; while it runs, its ports may be in use")
	fs.VarP(&f.output, "output", "o", "output format")
	daemonFlags(c, &f.config, "config", "hostname-override", "containerd-address", "cni-bin-dir", "proxier")
	fs.SetNormalizeFunc(joinAliases)
	return c
}

func (f *preflightFlags) run(c *cobra.Command, args []string) error {
	cfg, err := loadToJoin(&f.config)
	var unfit *bootstrap.Error
	if errors.As(err, &unfit) { // the other checks do not need a name
		if err := c.Flags().Set("hostname-override", "unnamed"); err != nil {
			return err
		}
		if cfg, _, err = config.Load(&f.config); err == nil {
			cfg.Node.Name, err = os.Hostname()
		}
	}
	if err != nil {
		return err
	}
	p := bootstrap.PreflightConfig{Host: hostcheck.New(&cfg), Ignore: f.ignore.names, Minor: version.Minor, Now: time.Now}
	if len(args) > 0 {
		if p.Servers, err = bootstrap.ParseServers(args[0]); err != nil {
			return err
		}
	}
	if active, _, err := unit.New(f.unit).State(c.Context()); err == nil {
		p.Running = active
	}
	findings := bootstrap.Preflight(c.Context(), p)
	failure := bootstrap.Failure(findings)
	if f.output.value == "json" {
		e := json.NewEncoder(c.OutOrStdout())
		e.SetIndent("", "  ")
		err = e.Encode(map[string]any{"fit": failure == nil, "checks": findings})
	} else {
		err = printFindings(c, findings)
	}
	if err == nil && failure != nil {
		err = saidError{failure}
	}
	return err
}

func printFindings(c *cobra.Command, findings []bootstrap.Finding) error {
	var failed []string
	for _, f := range findings {
		state, text := "ok", f.Fact
		switch {
		case f.Unknown != "":
			state, text = "unknown", f.Unknown
		case f.Problem != "" && f.Ignored:
			state, text = "ignored", f.Problem
		case f.Problem != "":
			state, text = "FAILED", f.Problem
			failed = append(failed, f.Check)
		}
		line := strings.TrimRight(fmt.Sprintf("%-12s %-8s %s", f.Check, state, text), " ")
		if f.Problem != "" {
			line += "\n" + strings.Repeat(" ", 22) + "remedy: " + f.Remedy
		}
		if _, err := fmt.Fprintln(c.OutOrStdout(), line); err != nil {
			return err
		}
	}
	last := "this machine is fit to join"
	if len(failed) > 0 {
		last = "this machine is not fit; to join all the same: --ignore " + strings.Join(failed, ",")
	}
	_, err := fmt.Fprintln(c.OutOrStdout(), last)
	return err
}

// loadToJoin is config.Load, except that a host name that cannot be a node's is an error of this
// machine, not of the command line.
func loadToJoin(flags *config.Flags) (config.Config, error) {
	cfg, _, err := config.Load(flags)
	var wrong config.Errors
	if !errors.As(err, &wrong) || len(wrong) != 1 || !strings.HasSuffix(wrong[0].Field, "nodeName") {
		return cfg, err
	}
	host, hostErr := os.Hostname()
	if hostErr != nil || !strings.Contains(wrong[0].Error(), fmt.Sprintf("%q", strings.ToLower(host))) {
		return cfg, err // the name was given
	}
	return cfg, &bootstrap.Error{
		Code: bootstrap.CodeHost, Err: fmt.Errorf("checking this machine (hostname): %s", wrong[0].Problem),
		Next: "give a name with --node-name NAME, or rename the machine: hostnamectl set-hostname NAME",
	}
}
