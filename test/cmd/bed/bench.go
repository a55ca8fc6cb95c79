package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"

	"github.com/nodeagent/nodeagent/test/bed"
	"github.com/nodeagent/nodeagent/test/bed/tools"
)

type benchOptions struct {
	pods int
	peer bool
	idle time.Duration
	out  io.Writer
}

func benchCommand() *cobra.Command {
	o := benchOptions{}
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure pod starts and memory on a node of a cluster made for it",
		Long: `Starts one pod after the other, image local, and measures from the create call until a watcher sees it Ready, then until
it is gone after its deletion. Memory is what the node's programs have resident after a rest.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.out = cmd.OutOrStdout()
			return o.run(cmd.Context())
		},
	}
	cmd.Flags().IntVar(&o.pods, "pods", 30, "how many pods, one after the other")
	cmd.Flags().BoolVar(&o.peer, "peer", false, "measure upstream's kubelet and kube-proxy instead of nodeagent")
	cmd.Flags().DurationVar(&o.idle, "idle", 20*time.Second, "rest before memory is read")
	return cmd
}

func (o benchOptions) run(ctx context.Context) (err error) {
	builder, err := tools.New(o.out)
	if err != nil {
		return err
	}
	var kind bed.Kind = bed.NodeAgent{}
	if o.peer {
		kind = bed.Peer{}
	}
	c, err := bed.Start(ctx, bed.Options{Nodes: []bed.Kind{kind}, Log: o.out, Builder: builder})
	if err != nil {
		return err
	}
	defer func() {
		if e := c.Stop(context.WithoutCancel(ctx)); err == nil {
			err = e
		}
	}()
	n := c.Nodes()[0]
	if err := n.WaitReady(ctx, time.Minute); err != nil {
		return err
	}
	if err := c.LoadImages(ctx, bed.Busybox); err != nil {
		return err
	}
	if err := o.memory(ctx, n, "idle, no pod yet"); err != nil {
		return err
	}
	config, err := c.RESTConfig()
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("making a client: %w", err)
	}
	if err := o.starts(ctx, client); err != nil {
		return err
	}
	return o.memory(ctx, n, fmt.Sprintf("after %d pods", o.pods))
}

// starts measures pod starts and ends.
func (o benchOptions) starts(ctx context.Context, client kubernetes.Interface) error {
	var ready, gone []time.Duration
	// The first one warms what starts only once, such as the bridge, and is left out.
	for i := range o.pods + 1 {
		r, g, err := o.onePod(ctx, client, fmt.Sprintf("bench-%d", i))
		if err != nil {
			return err
		}
		if i > 0 {
			ready, gone = append(ready, r), append(gone, g)
		}
	}
	for _, row := range []struct {
		what  string
		times []time.Duration
	}{{"create → Ready", ready}, {"delete → gone", gone}} {
		slices.Sort(row.times)
		at := func(share float64) time.Duration {
			return row.times[int(share*float64(len(row.times)-1))].Round(time.Millisecond)
		}
		_, _ = fmt.Fprintf(o.out, "%-16s p50 %6s   p90 %6s   max %6s   (%d pods)\n", row.what, at(0.5), at(0.9), at(1), len(row.times))
	}
	return nil
}

func (o benchOptions) onePod(ctx context.Context, client kubernetes.Interface, name string) (ready, gone time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	pods := client.CoreV1().Pods("default")
	watch, err := pods.Watch(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", name).String()})
	if err != nil {
		return 0, 0, fmt.Errorf("watching pod %q: %w", name, err)
	}
	defer watch.Stop()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: new(int64(5)),
			// It ends when told to, so that "gone" measures the agent and not the grace period.
			Containers: []corev1.Container{{Name: "c", Image: bed.Busybox, Command: []string{"sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"}}},
		},
	}
	started := time.Now()
	if _, err := pods.Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		return 0, 0, fmt.Errorf("creating pod %q: %w", name, err)
	}
	for event := range watch.ResultChan() {
		p, ok := event.Object.(*corev1.Pod)
		if !ok {
			return 0, 0, fmt.Errorf("watching pod %q: %v", name, event.Object)
		}
		if event.Type == "DELETED" {
			return ready, time.Since(started), nil
		}
		if ready == 0 && isReady(p) {
			ready = time.Since(started)
			started = time.Now()
			if err := pods.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
				return 0, 0, fmt.Errorf("deleting pod %q: %w", name, err)
			}
		}
	}
	return 0, 0, fmt.Errorf("waiting for pod %q: not Ready and gone within a minute", name)
}

func isReady(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// memory prints what the node's programs have resident, summed by name.
func (o benchOptions) memory(ctx context.Context, n *bed.Node, when string) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(o.idle):
	}
	all, err := n.Usage()
	if err != nil {
		return err
	}
	sum := map[string]int64{}
	for _, u := range all {
		sum[u.Name] += u.RSS
	}
	for _, name := range []string{"nodeagent", "nodeagent-pump", "kubelet", "kube-proxy", "containerd"} {
		if rss, ok := sum[name]; ok {
			_, _ = fmt.Fprintf(o.out, "%-16s %4d MiB resident, %s\n", name, rss>>20, when)
		}
	}
	return nil
}
