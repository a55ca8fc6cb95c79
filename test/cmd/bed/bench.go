package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"

	"github.com/nodeagent/nodeagent/pkg/sleep"
	"github.com/nodeagent/nodeagent/test/bed"
	"github.com/nodeagent/nodeagent/test/bed/tools"
)

type benchOptions struct {
	pods, burst, bursts, starts int
	services, changes, fresh    int
	idle, rest                  time.Duration
	json, programs              string
	out                         io.Writer
}

func benchCommand() *cobra.Command {
	o := benchOptions{}
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure nodeagent beside upstream's kubelet and kube-proxy, in one cluster made for it",
		Long: `Starts a cluster of two nodes, one with nodeagent and one with upstream's kubelet and kube-proxy, and has both do the same
in rounds, each beginning every other time, so that whatever else the machine does hits both. The first round of each warms what starts only once
and is not counted. Ratios mean more than seconds: those depend on the machine and on its load, which the report names.

  pod start       from the create call until a watcher sees the pod Ready; its image is on the node
  pod deletion    from the delete call until the watcher sees the pod gone; the container ends when told to
  burst           from the first create call until the last of many pods is Ready
  process start   from the start of the agent's programs until a watcher sees the node Ready
  endpoint change from the update call of an EndpointSlice until a connection through the ClusterIP succeeds from the node,
                  with as many Services there as --services says; the other node's proxy is stopped meanwhile
  from nothing    from the start of the proxy, the Services being there and the node without a rule, until a connection through the
                  last Service succeeds. nodeagent with both halves, and with its services half alone (--pods off), each beside kube-proxy
  memory          of the agent (nodeagent and nodeagent-pump; kubelet and kube-proxy), and of what it brings along
                  (containerd, shims, pause containers)`,
		Example: `  bed bench --json figures.json
  bed bench --pods 5 --burst 5 --bursts 1 --starts 1 --services 50 --changes 3 --idle 10s`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.out = cmd.OutOrStdout()
			return o.run(cmd.Context())
		},
	}
	fs := cmd.Flags()
	fs.IntVar(&o.pods, "pods", 30, "how many pods one after the other, on each node; 0: none")
	fs.IntVar(&o.burst, "burst", 30, "how many pods at once")
	fs.IntVar(&o.bursts, "bursts", 3, "how many bursts, on each node; 0: none")
	fs.IntVar(&o.starts, "starts", 5, "how many starts of the agent, on each node; 0: none")
	fs.IntVar(&o.services, "services", 500, "how many Services of two endpoints; 0: no part about Services")
	fs.IntVar(&o.changes, "changes", 10, "how many changes of an endpoint, for each node")
	fs.IntVar(&o.fresh, "fresh", 2, "how many starts of the proxies with all Services there and no rules; 0: none")
	fs.DurationVar(&o.idle, "idle", time.Minute, "how long both do nothing while their CPU time is measured")
	fs.DurationVar(&o.rest, "rest", 10*time.Second, "rest before memory is read")
	fs.StringVar(&o.programs, "programs", "", "folder of nodeagent's programs; default: built from the source tree")
	fs.StringVar(&o.json, "json", "", "file for the figures as JSON")
	return cmd
}

// side is one of the two that are compared.
type side struct {
	name  string
	node  *bed.Node
	agent []string // the node's processes that are the agent, as the bed names them
	proxy string   // the one that programs Services
}

// bench is one run.
type bench struct {
	benchOptions
	cluster *bed.Cluster
	client  kubernetes.Interface
	sides   [2]*side // ours, upstream's
	report  report
}

func (o benchOptions) run(ctx context.Context) (err error) {
	if o.burst < 1 || o.changes < 1 {
		return errors.New("measuring: --burst and --changes must be at least 1")
	}
	builder, err := tools.New(o.out)
	if err != nil {
		return err
	}
	if o.programs == "" {
		if o.programs, err = bed.Programs(ctx, builder); err != nil {
			return err
		}
	}
	c, err := bed.Start(ctx, bed.Options{Nodes: []bed.Kind{bed.NodeAgent{Dir: o.programs}, bed.Peer{}}, Log: o.out, Builder: builder})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Stop(context.WithoutCancel(ctx))) }()
	for _, n := range c.Nodes() {
		if err := n.WaitReady(ctx, time.Minute); err != nil {
			return err
		}
	}
	if err := c.LoadImages(ctx, bed.Busybox); err != nil {
		return err
	}
	b, err := newBench(o, c)
	if err != nil {
		return err
	}
	for _, part := range []func(context.Context) error{b.agentStarts, b.idleCost, b.singlePods, b.burstPods, b.manyServices} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return b.report.finish(o.out, o.json)
}

// newBench finds the two sides in the cluster.
func newBench(o benchOptions, c *bed.Cluster) (*bench, error) {
	client, err := c.Client()
	if err != nil {
		return nil, err
	}
	b := &bench{benchOptions: o, cluster: c, client: client, report: newReport(o)}
	b.sides = [2]*side{
		{name: "nodeagent", agent: []string{"nodeagent"}, proxy: "nodeagent"},
		{name: "upstream", agent: []string{"kubelet", "kube-proxy"}, proxy: "kube-proxy"},
	}
	for _, n := range c.Nodes() {
		for _, s := range b.sides {
			if n.Process(s.proxy) != nil {
				s.node = n
			}
		}
	}
	return b, nil
}

func (b *bench) say(format string, args ...any) {
	_, _ = fmt.Fprintf(b.out, format+"\n", args...)
}

// rounds calls do for both sides n times, alternating which side comes first, after one round that
// is not counted.
func (b *bench) rounds(ctx context.Context, n int, do func(ctx context.Context, s *side, round int) error) error {
	for round := range n + 1 {
		for i := range b.sides {
			s := b.sides[(round+i)%2]
			if err := do(ctx, s, round-1); err != nil {
				return fmt.Errorf("measuring %s: %w", s.name, err)
			}
		}
	}
	return nil
}

// agentStarts measures from the start of the agent until its node, which the API does not know
// before, is Ready.
func (b *bench) agentStarts(ctx context.Context) error {
	if b.starts == 0 {
		return nil
	}
	b.say("starting the agents %d times", b.starts)
	return b.rounds(ctx, b.starts, func(ctx context.Context, s *side, round int) error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
		defer cancel()
		for _, name := range s.agent {
			if err := s.node.Process(name).Stop(30 * time.Second); err != nil {
				return err
			}
		}
		nodes := b.client.CoreV1().Nodes()
		if err := nodes.Delete(ctx, s.node.Name, metav1.DeleteOptions{}); err != nil {
			return fmt.Errorf("deleting node %q: %w", s.node.Name, err)
		}
		watch, err := nodes.Watch(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", s.node.Name).String()})
		if err != nil {
			return fmt.Errorf("watching node %q: %w", s.node.Name, err)
		}
		defer watch.Stop()
		started := time.Now()
		for _, name := range s.agent {
			if err := s.node.Process(name).Start(); err != nil {
				return err
			}
		}
		for event := range watch.ResultChan() {
			if n, ok := event.Object.(*corev1.Node); ok && event.Type != "DELETED" && nodeReady(n) {
				if round >= 0 {
					b.report.add(processStart, s, time.Since(started).Seconds())
				}
				return s.node.WaitReady(ctx, time.Minute) // gives it its pod CIDR
			}
		}
		return fmt.Errorf("waiting for node %q: not Ready within two minutes", s.node.Name)
	})
}

func nodeReady(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// idleCost measures both sides at the same time, without pods.
func (b *bench) idleCost(ctx context.Context) error {
	b.say("doing nothing for %s", b.idle)
	if err := sleep.For(ctx, b.rest); err != nil {
		return err
	}
	before, err := b.costs()
	if err != nil {
		return err
	}
	if err := sleep.For(ctx, b.idle); err != nil {
		return err
	}
	after, err := b.costs()
	if err != nil {
		return err
	}
	for i, s := range b.sides {
		minutes := b.idle.Minutes()
		b.report.add(idleCPU, s, (after[i].agent.cpu-before[i].agent.cpu).Seconds()/minutes)
		b.report.add(idleCPUAll, s, (after[i].all().cpu-before[i].all().cpu).Seconds()/minutes)
	}
	b.memory(after, idleRSS, idlePSS)
	return nil
}

// memory reports what the sides hold.
func (b *bench) memory(at [2]cost, rss, pss [2]quantity) {
	for i, s := range b.sides {
		b.report.add(rss[0], s, mib(at[i].agent.rss))
		b.report.add(rss[1], s, mib(at[i].all().rss))
		b.report.add(pss[0], s, mib(at[i].agent.pss))
		b.report.add(pss[1], s, mib(at[i].all().pss))
	}
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// use is what some processes use.
type use struct {
	rss, pss, peak int64
	cpu            time.Duration
}

func (u *use) add(v bed.Usage) {
	u.rss, u.pss, u.peak, u.cpu = u.rss+v.RSS, u.pss+v.PSS, u.peak+v.Peak, u.cpu+v.CPU
}

// cost is the cost of one side: of the agent, of what it brings along, and, again, of the process
// that programs Services.
type cost struct{ agent, runtime, proxy use }

func (c cost) all() use {
	a, r := c.agent, c.runtime
	return use{a.rss + r.rss, a.pss + r.pss, a.peak + r.peak, a.cpu + r.cpu}
}

// costs reads both sides, without the processes in the pods' containers.
func (b *bench) costs() (out [2]cost, err error) {
	for i, s := range b.sides {
		all, err := s.node.Usage()
		if err != nil {
			return out, err
		}
		for _, u := range all {
			switch u.Name {
			case "nodeagent", "kube-proxy":
				out[i].agent.add(u)
				out[i].proxy.add(u)
			case "nodeagent-pump", "kubelet":
				out[i].agent.add(u)
			case "containerd", "containerd-shim", "pause":
				out[i].runtime.add(u)
			}
		}
	}
	return out, nil
}
