// Command conformance runs specs of the Kubernetes e2e suite against the agent (or, for comparison,
// upstream's kubelet and kube-proxy) on its own cluster, and compares the results with the list of
// specs known to pass.
//
// Exit status: 0 all fine, 1 a listed spec failed or the suite broke, 2 it could not be run.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// errRegressed is the error of a run that is worse than the list.
var errRegressed = errors.New("specs that used to pass have failed, or the suite itself has")

// defaultSkip skips specs that need a cluster for themselves, or an hour.
const defaultSkip = `\[Serial\]|\[Slow\]|\[Disruptive\]|\[Flaky\]`

// settings are the command's flags.
type settings struct {
	focus, skip       string
	procs, nodes      int
	peer, update      bool
	keep              bool
	artifacts, list   string
	only, seed        string
	rotate            bool
	budget            time.Duration
	config, proxyMode string
	programs          string
	timeout           time.Duration
	dryRun            bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := command().ExecuteContext(ctx)
	switch {
	case errors.Is(err, errRegressed):
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	case err != nil:
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(2)
	}
}

func command() *cobra.Command {
	var s settings
	cmd := &cobra.Command{
		Use:           "conformance",
		Short:         "Specs of the Kubernetes e2e suite against the agent",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), s) },
	}
	f := cmd.Flags()
	f.StringVar(&s.focus, "focus", `\[Conformance\]`, "regular expression of specs to run")
	f.StringVar(&s.skip, "skip", defaultSkip, "regular expression of specs to leave out; - leaves out none")
	f.IntVar(&s.procs, "procs", 4, "specs to run side by side")
	f.IntVar(&s.nodes, "nodes", 1, "nodes of the cluster")
	f.BoolVar(&s.peer, "peer", false, "run upstream's kubelet and kube-proxy instead of the agent; compared with --list alone")
	f.BoolVar(&s.update, "update", false, "add newly passing specs to the list")
	f.BoolVar(&s.keep, "keep", false, "leave the cluster running, to look at it; `bed down` ends it")
	f.StringVar(&s.artifacts, "artifacts", "", "folder for reports and logs (default bin/conformance/TIME)")
	f.StringVar(&s.list, "list", "", "list of specs known to pass (default test/conformance/passing.txt)")
	f.StringVar(&s.config, "config", "", "file with configuration documents for the nodes (with --peer: fields of KubeletConfiguration)")
	f.StringVar(&s.proxyMode, "proxy-mode", "", "with --peer, kube-proxy's mode (default iptables)")
	f.StringVar(&s.programs, "programs", "", "folder with the agent's programs (default: built from the source tree)")
	f.DurationVar(&s.timeout, "timeout", 3*time.Hour, "limit of the whole run of the suite")
	f.StringVar(&s.only, "only", "", "file with names of specs, one a line; these run, whatever --focus and --skip say")
	f.BoolVar(&s.rotate, "rotate", false, "run a part of the list that --seed chooses and that lasts about --budget; what fails runs once more, alone, and is told of")
	f.StringVar(&s.seed, "seed", "", "what chooses the part (default: the commit that is checked out)")
	f.DurationVar(&s.budget, "budget", 10*time.Minute, "how long the part lasts, by what its specs took before")
	f.BoolVar(&s.dryRun, "dry-run", false, "only list the specs that would run")
	return cmd
}

// resolve fills in what depends on the source tree and the time.
func (s *settings) resolve(source string, now time.Time) error {
	if s.skip == "-" {
		s.skip = ""
	}
	if s.list == "" && !s.peer {
		s.list = filepath.Join(source, "test/conformance/passing.txt")
	}
	if s.artifacts == "" {
		s.artifacts = filepath.Join(source, "bin/conformance", now.Format("20060102-150405"))
	}
	abs, err := filepath.Abs(s.artifacts)
	if err != nil {
		return fmt.Errorf("resolving artifacts folder: %w", err)
	}
	s.artifacts = abs
	if err := os.MkdirAll(s.artifacts, 0o755); err != nil {
		return fmt.Errorf("making artifacts folder: %w", err)
	}
	switch {
	case s.procs < 1 || s.nodes < 1:
		return errors.New("at least one process and one node are needed")
	case s.rotate && s.list == "":
		return errors.New("choosing a part of the list: upstream has no list; name one with --list")
	case s.rotate && s.only != "":
		return errors.New("choosing what to run: give either --rotate or --only")
	}
	return nil
}
