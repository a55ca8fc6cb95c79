package main

import (
	"context"
	_ "embed" // the sample workload is a file that people read
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/nodeagent/nodeagent/test/bed"
	"github.com/nodeagent/nodeagent/test/bed/tools"
)

//go:embed sample.yaml
var sample string

// defaultID is the name of the cluster that `make up` starts.
const defaultID = "up"

type upOptions struct {
	id    string
	nodes int
	peer  bool
	log   io.Writer
}

func upCommand() *cobra.Command {
	o := upOptions{}
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start a cluster that stays, with a sample workload on it",
		Long: `Installs missing packages, builds what is not built yet, starts a control plane and nodes on this machine, joins each node
with "nodeagent join --token", deploys a web server behind a Service and asks it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.log = cmd.OutOrStdout()
			return o.run(cmd.Context())
		},
	}
	idFlag(cmd, &o.id)
	cmd.Flags().IntVar(&o.nodes, "nodes", 1, "how many nodes")
	cmd.Flags().BoolVar(&o.peer, "peer", false, "nodes run upstream's kubelet and kube-proxy instead of nodeagent")
	return cmd
}

func (o upOptions) say(format string, args ...any) {
	_, _ = fmt.Fprintf(o.log, format+"\n", args...)
}

func (o upOptions) run(ctx context.Context) error {
	running, err := bed.List()
	if err != nil {
		return err
	}
	if slices.Contains(running, o.id) {
		o.say("cluster %q is up already", o.id)
		return o.explain()
	}
	if err := tools.InstallPackages(ctx, o.log); err != nil {
		return err
	}
	builder, err := tools.New(o.log)
	if err != nil {
		return err
	}
	c, err := o.start(ctx, builder)
	if err != nil {
		return err
	}
	if err := o.deploy(ctx, c); err != nil {
		o.say("The cluster stays up for you to look at; its logs are in %s", c.LogDir())
		return errors.Join(err, o.explain())
	}
	return o.explain()
}

// start starts the cluster and waits until its nodes are Ready.
func (o upOptions) start(ctx context.Context, builder *tools.Builder) (*bed.Cluster, error) {
	var kind bed.Kind = bed.Peer{}
	// Everything is built before the cluster starts, so that compile errors come first. Images wait
	// for a network while programs wait for a processor.
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		o.say("assembling the sample's image")
		_, err := bed.BuildImages(gctx, builder, bed.Busybox)
		return err
	})
	g.Go(func() error {
		if o.peer {
			return nil
		}
		dir, err := bed.Programs(gctx, builder)
		kind = bed.NodeAgent{Dir: dir}
		return err
	})
	g.Go(func() error {
		_, err := builder.Build(gctx, append(tools.ControlPlane(), tools.Node()...)...)
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	o.say("starting cluster %q", o.id)
	c, err := bed.Start(ctx, bed.Options{ID: o.id, Detached: true, Log: o.log, Builder: builder, Nodes: slices.Repeat([]bed.Kind{kind}, o.nodes)})
	if err != nil {
		return nil, err
	}
	if err := writeWrapper(c); err != nil {
		return c, err
	}
	for _, n := range c.Nodes() {
		if err := n.WaitReady(ctx, time.Minute); err != nil {
			o.say("The cluster stays up for you to look at; its logs are in %s", c.LogDir())
			return c, err
		}
		o.say("node %s is Ready", n.Name)
	}
	return c, c.LoadImages(ctx, bed.Busybox)
}

// deploy shows that a pod runs and a Service answers.
func (o upOptions) deploy(ctx context.Context, c *bed.Cluster) error {
	if err := c.Apply(ctx, sample); err != nil {
		return err
	}
	if _, err := c.Kubectl(ctx, "rollout", "status", "deployment/hello", "--timeout=60s"); err != nil {
		return err
	}
	pods, err := c.Kubectl(ctx, "get", "pods", "-o", "wide")
	if err != nil {
		return err
	}
	o.say("\n$ %s get pods -o wide\n%s", wrapper(o.id), pods)
	ip, err := c.Kubectl(ctx, "get", "service", "hello", "-o", "jsonpath={.spec.clusterIP}")
	if err != nil {
		return err
	}
	node := c.Nodes()[0]
	for _, url := range []string{"http://" + ip + "/", "http://" + node.IP.String() + ":30080/"} {
		// Rules follow the endpoints after a moment.
		var answer string
		for range 50 {
			if answer, err = node.Output(ctx, "busybox", "timeout", "2", "wget", "-qO-", url); err == nil {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		if err != nil {
			return fmt.Errorf("asking the Service: %w", err)
		}
		o.say("GET %s from node %s: %s", url, node.Name, strings.TrimSpace(answer))
	}
	return nil
}

// wrapper is the path of a ready-made kubectl below the source tree; each cluster has its own.
func wrapper(id string) string {
	if id == defaultID {
		return "bin/kubectl"
	}
	return "bin/kubectl-" + id
}

// writeWrapper writes a kubectl that enters the cluster's network namespace. It works for as long
// as the cluster is up.
func writeWrapper(c *bed.Cluster) error {
	path := filepath.Join(c.Builder().Source, wrapper(c.ID()))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("making folder for the kubectl wrapper: %w", err)
	}
	script := fmt.Sprintf("#!/bin/sh\n# kubectl for cluster %q, written by `bed up`\nexec nsenter --net=/run/netns/%s env KUBECONFIG=%s %s \"$@\"\n",
		c.ID(), c.NetNS(), c.Kubeconfig(), c.Tools().Get("kubectl"))
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		return fmt.Errorf("writing the kubectl wrapper: %w", err)
	}
	return nil
}

func (o upOptions) explain() error {
	flag, down := "", "make down"
	if o.id != defaultID {
		flag = " --id " + o.id
		down = "bin/bed down" + flag
	}
	o.say("")
	for _, line := range [][2]string{
		{wrapper(o.id) + " get nodes", "kubectl, ready to use (as root)"},
		{"bin/bed exec" + flag + " n1 -- nodeagent status", "a program on the node; a shell: bin/bed exec" + flag + " n1 bash"},
		{"bin/bed logs" + flag, "where the logs are"},
		{down, "take it away"},
	} {
		o.say("%-40s %s", line[0], line[1])
	}
	return nil
}

func downCommand() *cobra.Command {
	var id string
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Take a cluster away, with everything it has",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := bed.Down(cmd.Context(), id)
			if errors.Is(err, fs.ErrNotExist) {
				_, _ = fmt.Fprintf(cmd.OutOrStdout(), "no cluster %q is up\n", id)
				return nil
			}
			if err != nil {
				return err
			}
			_, _ = fmt.Fprintf(cmd.OutOrStdout(), "cluster %q is gone\n", id)
			return removeWrapper(id)
		},
	}
	idFlag(cmd, &id)
	return cmd
}

// removeWrapper removes the cluster's wrapper from the source tree that it is run from.
func removeWrapper(id string) error {
	source, err := tools.FindSource()
	if err != nil {
		return nil //nolint:nilerr // run from elsewhere: there is no wrapper to be found from here
	}
	if err := os.Remove(filepath.Join(source, wrapper(id))); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the kubectl wrapper: %w", err)
	}
	return nil
}

func idFlag(cmd *cobra.Command, id *string) {
	cmd.Flags().StringVar(id, "id", defaultID, "the cluster's name, 1 to 12 letters and digits; several can be up")
}
