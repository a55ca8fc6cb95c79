// Package podsource is EDGE: where the pods of this node come from. API reads them from the API
// server, Static from a folder of manifests. Static also keeps a mirror pod in the API for each of
// its pods, and is the only one that creates them. Neither runs anything, and neither writes a
// status.
package podsource

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
)

// Annotations of pods that are defined on a node; kubelet's names.
const (
	SourceAnnotation = "kubernetes.io/config.source"
	SeenAnnotation   = "kubernetes.io/config.seen"
	HashAnnotation   = "kubernetes.io/config.hash"
	MirrorAnnotation = "kubernetes.io/config.mirror"
)

// Mirrors is told of the mirror pods that the API server has of this node.
type Mirrors interface {
	// ObserveMirror takes the newest of one mirror pod; gone says that the API server has it no
	// longer.
	ObserveMirror(pod *corev1.Pod, gone bool)
	// MirrorsListed says that all mirror pods of the first complete answer were observed.
	MirrorsListed()
}

// APIConfig of an API source.
type APIConfig struct {
	Client   kubernetes.Interface
	NodeName string
	// Mirrors takes the mirror pods, which are no work for this node; nil: they are dropped.
	Mirrors Mirrors
	Log     *slog.Logger
}

// API is the source of the pods that are bound to this node in the API server.
type API struct {
	config APIConfig
	synced atomic.Bool
}

// NewAPI makes an API source.
func NewAPI(c APIConfig) (*API, error) {
	if c.Client == nil || c.NodeName == "" || c.Log == nil {
		return nil, errors.New("making the API pod source: Client, NodeName and Log are required")
	}
	return &API{config: c}, nil
}

// Synced says that a complete list of this node's pods has been emitted.
func (a *API) Synced() bool { return a.synced.Load() }

// Run lists and watches until ctx ends. Failures are retried with growing pauses for ever: an API
// server that is away says nothing about pods. A pod counts as gone when the watch says so, or when
// a complete list has it no longer.
func (a *API) Run(ctx context.Context, emit func(podspec.Update)) error {
	pods := a.config.Client.CoreV1().Pods(metav1.NamespaceAll)
	selector := fields.OneTermEqualSelector("spec.nodeName", a.config.NodeName).String()
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (kruntime.Object, error) {
			o.FieldSelector = selector
			if o.ResourceVersion == "0" {
				// Any version would do, says the reflector. But what the first list does not have
				// is ended as an orphan, and the cache of an API server that has just started may
				// not have the youngest pods.
				o.ResourceVersion = ""
			}
			return pods.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = selector
			return pods.Watch(ctx, o)
		},
	}
	store := &podStore{source: a, emit: emit, pods: make(map[types.UID]*corev1.Pod)}
	reflector := cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(lw, a.config.Client), &corev1.Pod{}, store,
		cache.ReflectorOptions{Name: "pods of node " + a.config.NodeName, MinWatchTimeout: 5 * time.Minute})
	reflector.RunWithContext(ctx)
	return nil
}

// podStore turns what the reflector learns into updates. Only the reflector's goroutine calls it,
// but a test may look.
type podStore struct {
	source *API
	emit   func(podspec.Update)

	mu   sync.Mutex
	pods map[types.UID]*corev1.Pod
}

// Add takes a new or changed pod.
func (s *podStore) Add(obj any) error { return s.set(obj) }

// Update takes a new or changed pod.
func (s *podStore) Update(obj any) error { return s.set(obj) }

// Delete takes a pod that the API server has no longer.
func (s *podStore) Delete(obj any) error {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return fmt.Errorf("reading a deleted pod: it is a %T", obj)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pods, pod.UID)
	s.tell(pod, true)
	return nil
}

// Replace takes a complete list.
func (s *podStore) Replace(list []any, _ string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := make(map[types.UID]*corev1.Pod, len(list))
	for _, obj := range list {
		pod, ok := obj.(*corev1.Pod)
		if !ok {
			return fmt.Errorf("reading a list of pods: it holds a %T", obj)
		}
		now[pod.UID] = pod
	}
	old := s.pods
	s.pods = now
	for uid, pod := range old {
		if now[uid] == nil {
			s.tell(pod, true)
		}
	}
	for uid, pod := range now {
		if before := old[uid]; before == nil || before.ResourceVersion != pod.ResourceVersion {
			s.tell(pod, false)
		}
	}
	if s.source.config.Mirrors != nil {
		s.source.config.Mirrors.MirrorsListed()
	}
	s.source.synced.Store(true)
	return nil
}

// Resync does nothing: nothing is kept that could get out of step.
func (s *podStore) Resync() error { return nil }

func (s *podStore) set(obj any) error {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return fmt.Errorf("reading a pod: it is a %T", obj)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pods[pod.UID] = pod
	s.tell(pod, false)
	return nil
}

// tell passes a pod on, a mirror pod to who mirrors.
func (s *podStore) tell(pod *corev1.Pod, gone bool) {
	pod.ManagedFields = nil // large, and of no use here
	if _, mirror := pod.Annotations[MirrorAnnotation]; mirror {
		if m := s.source.config.Mirrors; m != nil {
			m.ObserveMirror(pod, gone)
		}
		return
	}
	s.emit(podspec.Update{UID: pod.UID, Pod: pod, Gone: gone})
}
