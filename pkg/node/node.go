// Package node is a LOOP: the half that keeps the machine fit for its pods. It observes runtime,
// network and disk (measure), decides by the pods' limits and requests (pressure), acts through
// roles (evict a pod, set the cgroups of all pods), and reports: it has the Node's status sent as
// soon as runtime or network come or go, and counts evictions.
//
//	every second       runtime and network ─► changed? report the node's status now
//	every 5 seconds    allocatable, pods' requests ─► limits of kubepods, shares of the QoS classes
//	every 10 seconds   disk usage of pods with limits ─► pressure.CheckStorage ─► evict
//
// Below it, facts says what the machine is, and footprint keeps the agent's own memory small.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/node/pressure"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/sleep"
)

const (
	healthEvery  = time.Second
	cgroupsEvery = 5 * time.Second
	storageEvery = 10 * time.Second // as in kubelet
	// Measuring folders of millions of files takes long: the pause after it is storageShare times
	// as long as it took, and storageMost at most.
	storageShare = 20
	storageMost  = 10 * time.Minute
)

// Pod is a pod of this node.
type Pod struct {
	*corev1.Pod // with its newest status
	Static      bool
	Ended       bool // it is being ended, or has been
}

// Cgroups are the control groups above those of pods.
type Cgroups interface {
	// SetNode limits all pods together to what the node can give them.
	SetNode(ctx context.Context, allocatable corev1.ResourceList) error
	// SetLevels gives each QoS class the CPU shares that its pods request together.
	SetLevels(pods []*corev1.Pod) error
}

// Events is the one method of client-go's EventRecorder that is used here.
type Events interface {
	Event(object kruntime.Object, eventType, reason, message string)
}

// Config of a Loop. All fields are required.
type Config struct {
	// Health is the state of runtime and network as text; Changed is called when it differs from
	// the last.
	Health  func(ctx context.Context) string
	Changed func()

	// Pods are the pods that sources know.
	Pods func() []Pod
	// Allocatable is what pods may request together; nil while it is not known.
	Allocatable func() corev1.ResourceList
	Cgroups     Cgroups

	// LimitStorage has pods evicted that exceed their limits of local storage.
	LimitStorage bool
	// Storage measures a pod's use of the disk. Beside an error it returns what could be measured.
	Storage func(ctx context.Context, pod *corev1.Pod) (pressure.Usage, error)
	// Evict ends a pod as Failed.
	Evict  func(uid types.UID, t podspec.Termination)
	Events Events
	Now    func() time.Time
	Log    *slog.Logger
}

// Loop is the node half.
type Loop struct {
	config    Config
	evictions *prometheus.CounterVec
	limited   corev1.ResourceList // what kubepods is limited to
}

// New checks the configuration and makes a Loop.
func New(c Config) (*Loop, error) {
	switch {
	case c.Health == nil, c.Changed == nil, c.Pods == nil, c.Allocatable == nil, c.Cgroups == nil:
		return nil, errors.New("making the node loop: Health, Changed, Pods, Allocatable and Cgroups are required")
	case c.Storage == nil, c.Evict == nil, c.Events == nil, c.Now == nil, c.Log == nil:
		return nil, errors.New("making the node loop: Storage, Evict, Events, Now and Log are required")
	}
	return &Loop{config: c, evictions: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kubelet_evictions", Help: "Pods ended for their use of resources, by what they used too much of.",
	}, []string{"eviction_signal"})}, nil
}

// Collector is kubelet's metric of evictions.
func (l *Loop) Collector() prometheus.Collector { return l.evictions }

// Run keeps the node until ctx ends, and leaves everything as it is then.
func (l *Loop) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { l.followHealth(ctx); return nil })
	g.Go(func() error { l.keepCgroups(ctx); return nil })
	if l.config.LimitStorage {
		g.Go(func() error { l.limitStorage(ctx); return nil })
	}
	return g.Wait()
}

// followHealth has the node's status reported when runtime or network come or go.
func (l *Loop) followHealth(ctx context.Context) {
	last := ""
	for sleep.For(ctx, healthEvery) == nil {
		health := l.config.Health(ctx)
		if health != last {
			l.config.Changed()
		}
		last = health
	}
}

// keepCgroups keeps the groups above those of pods at what the node has and its pods request.
func (l *Loop) keepCgroups(ctx context.Context) {
	for {
		l.setCgroups(ctx)
		if sleep.For(ctx, cgroupsEvery) != nil {
			return
		}
	}
}

func (l *Loop) setCgroups(ctx context.Context) {
	c := l.config
	if allocatable := c.Allocatable(); allocatable != nil && !equality.Semantic.DeepEqual(allocatable, l.limited) {
		if err := c.Cgroups.SetNode(ctx, allocatable); err != nil {
			c.Log.Error("Cgroup of all pods was not limited to the node's allocatable resources", "err", err)
		} else {
			l.limited = allocatable
		}
	}
	var pods []*corev1.Pod
	for _, p := range c.Pods() {
		pods = append(pods, p.Pod)
	}
	if err := c.Cgroups.SetLevels(pods); err != nil {
		c.Log.Error("CPU shares of the QoS classes were not set", "err", err)
	}
}

// limitStorage evicts pods that exceed their limits of local storage. Those without limits are not
// measured.
func (l *Loop) limitStorage(ctx context.Context) {
	for pause := storageEvery; sleep.For(ctx, pause) == nil; {
		began := l.config.Now()
		for _, p := range l.config.Pods() {
			if ctx.Err() == nil && p.lives() && pressure.Limited(p.Pod, p.Static) {
				l.checkStorage(ctx, p.Pod)
			}
		}
		pause = min(storageMost, max(storageEvery, storageShare*l.config.Now().Sub(began)))
	}
}

// lives says that the pod has not ended, nor begun to.
func (p Pod) lives() bool {
	return p.DeletionTimestamp == nil && !p.Ended && !podspec.Terminal(p.Status.Phase)
}

func (l *Loop) checkStorage(ctx context.Context, pod *corev1.Pod) {
	c, name := l.config, podspec.Key(pod)
	used, err := c.Storage(ctx, pod)
	if ctx.Err() != nil {
		return
	}
	if err != nil { // what could be measured counts
		c.Log.Warn("Disk usage of a pod was not fully measured", "pod", name, "uid", pod.UID, "err", err)
	}
	e := pressure.CheckStorage(pod, used)
	if e == nil {
		return
	}
	c.Log.Info("Evicting a pod that exceeds its limits of local storage", "pod", name, "uid", pod.UID, "message", e.Message)
	c.Events.Event(pod, corev1.EventTypeWarning, e.Reason, e.Message)
	l.evictions.WithLabelValues(e.Signal).Inc()
	c.Evict(pod.UID, e.Termination)
}

// Health describes runtime and network for Config.Health; nil checks are left out.
func Health(ctx context.Context, checks ...func(context.Context) error) string {
	text := ""
	for _, check := range checks {
		if check != nil {
			text += fmt.Sprint(check(ctx), "\n")
		}
	}
	return text
}
