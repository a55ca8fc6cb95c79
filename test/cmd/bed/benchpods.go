package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/nodeagent/nodeagent/pkg/sleep"
	"github.com/nodeagent/nodeagent/test/bed"
)

// benchNamespace is where the pods are.
const benchNamespace = "default"

// podLimit is the longest time that a pod may take to start and end.
const podLimit = 2 * time.Minute

// restBeforeDelete is the time from Ready to the deletion. As the first process of its namespace, a
// shell ignores SIGTERM until it has set its trap; deleting it earlier would measure the grace
// period.
const restBeforeDelete = time.Second

// benchPod is a pod that needs only an image that the node has.
func benchPod(s *side, name, group string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"bench": group}},
		Spec: corev1.PodSpec{
			NodeName:                      s.node.Name, // the scheduler is not measured
			TerminationGracePeriodSeconds: new(int64(30)),
			// It exits on SIGTERM, so that its deletion measures the agent and not the grace
			// period.
			Containers: []corev1.Container{{Name: "c", Image: bed.Busybox, Command: []string{"sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"}}},
		},
	}
}

// singlePods measures pods one after the other.
func (b *bench) singlePods(ctx context.Context) error {
	if b.pods == 0 {
		return nil
	}
	b.say("starting and deleting %d pods on each node, one after the other", b.pods)
	return b.rounds(ctx, b.pods, func(ctx context.Context, s *side, round int) error {
		ready, gone, err := b.onePod(ctx, benchPod(s, fmt.Sprintf("one-%s-%d", s.node.Name, round+1), "one"))
		if err == nil && round >= 0 {
			b.report.add(podStart, s, ready.Seconds())
			b.report.add(podDeletion, s, gone.Seconds())
		}
		return err
	})
}

func (b *bench) onePod(ctx context.Context, pod *corev1.Pod) (ready, gone time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, podLimit)
	defer cancel()
	pods := b.client.CoreV1().Pods(benchNamespace)
	watch, err := pods.Watch(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", pod.Name).String()})
	if err != nil {
		return 0, 0, fmt.Errorf("watching pod %q: %w", pod.Name, err)
	}
	defer watch.Stop()
	started := time.Now()
	if _, err := pods.Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		return 0, 0, fmt.Errorf("creating pod %q: %w", pod.Name, err)
	}
	for event := range watch.ResultChan() {
		p, ok := event.Object.(*corev1.Pod)
		if !ok {
			return 0, 0, fmt.Errorf("watching pod %q: %v", pod.Name, event.Object)
		}
		if event.Type == "DELETED" {
			return ready, time.Since(started), nil
		}
		if ready == 0 && isReady(p) {
			ready = time.Since(started)
			if err := sleep.For(ctx, restBeforeDelete); err != nil {
				return 0, 0, err
			}
			started = time.Now()
			if err := pods.Delete(ctx, pod.Name, metav1.DeleteOptions{}); err != nil {
				return 0, 0, fmt.Errorf("deleting pod %q: %w", pod.Name, err)
			}
		}
	}
	return 0, 0, fmt.Errorf("waiting for pod %q: not Ready and gone within %s", pod.Name, podLimit)
}

func isReady(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// burstPods measures many pods at once. Both nodes keep the pods of their last burst until memory
// has been read.
func (b *bench) burstPods(ctx context.Context) error {
	if b.bursts == 0 {
		return nil
	}
	b.say("starting and deleting %d times %d pods at once on each node", b.bursts, b.burst)
	last := b.bursts - 1
	err := b.rounds(ctx, b.bursts, func(ctx context.Context, s *side, round int) error {
		before, err := b.costs()
		if err != nil {
			return err
		}
		took, err := b.startBurst(ctx, s, round)
		if err != nil {
			return err
		}
		after, err := b.costs()
		if err != nil {
			return err
		}
		if round >= 0 {
			b.report.add(burstStart, s, took.Seconds())
			i := slices.Index(b.sides[:], s)
			b.report.add(burstCPU, s, (after[i].all().cpu - before[i].all().cpu).Seconds())
		}
		if round == last {
			return nil
		}
		if err := sleep.For(ctx, restBeforeDelete); err != nil {
			return err
		}
		took, err = b.endBurst(ctx, s, round)
		if round >= 0 {
			b.report.add(burstEnd, s, took.Seconds())
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := sleep.For(ctx, b.rest); err != nil {
		return err
	}
	at, err := b.costs()
	if err != nil {
		return err
	}
	b.memory(at, loadedRSS, loadedPSS)
	for _, s := range b.sides {
		took, err := b.endBurst(ctx, s, last)
		if err != nil {
			return err
		}
		b.report.add(burstEnd, s, took.Seconds())
	}
	return nil
}

func burstName(s *side, round int) string { return fmt.Sprintf("burst-%s-%d", s.node.Name, round+1) }

// startBurst creates the pods in parallel and returns when the last one is Ready.
func (b *bench) startBurst(ctx context.Context, s *side, round int) (time.Duration, error) {
	group := burstName(s, round)
	seen := map[string]bool{}
	return b.watchBurst(ctx, group, func(ctx context.Context) error {
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(10)
		for i := range b.burst {
			g.Go(func() error {
				_, err := b.client.CoreV1().Pods(benchNamespace).Create(ctx, benchPod(s, fmt.Sprintf("%s-%d", group, i), group), metav1.CreateOptions{})
				return err
			})
		}
		return g.Wait()
	}, func(event string, p *corev1.Pod) bool {
		if event != "DELETED" && isReady(p) {
			seen[p.Name] = true
		}
		return len(seen) == b.burst
	})
}

// endBurst deletes the pods and returns when the last one is gone.
func (b *bench) endBurst(ctx context.Context, s *side, round int) (time.Duration, error) {
	group := burstName(s, round)
	gone := 0
	return b.watchBurst(ctx, group, func(ctx context.Context) error {
		return b.client.CoreV1().Pods(benchNamespace).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "bench=" + group})
	}, func(event string, _ *corev1.Pod) bool {
		if event == "DELETED" {
			gone++
		}
		return gone == b.burst
	})
}

// watchBurst calls act and measures until enough is satisfied with the group's pods.
func (b *bench) watchBurst(ctx context.Context, group string, act func(context.Context) error, enough func(event string, p *corev1.Pod) bool) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, podLimit)
	defer cancel()
	watch, err := b.client.CoreV1().Pods(benchNamespace).Watch(ctx, metav1.ListOptions{LabelSelector: labels.Set{"bench": group}.String()})
	if err != nil {
		return 0, fmt.Errorf("watching pods of %q: %w", group, err)
	}
	defer watch.Stop()
	started := time.Now()
	if err := act(ctx); err != nil {
		return 0, fmt.Errorf("creating or deleting pods of %q: %w", group, err)
	}
	for event := range watch.ResultChan() {
		p, ok := event.Object.(*corev1.Pod)
		if !ok {
			return 0, fmt.Errorf("watching pods of %q: %v", group, event.Object)
		}
		if enough(string(event.Type), p) {
			return time.Since(started), nil
		}
	}
	return 0, fmt.Errorf("waiting for pods of %q: not there within %s", group, podLimit)
}
