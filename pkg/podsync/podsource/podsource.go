// Package podsource is EDGE: the sources of this node's pods. API reads them from the API server,
// Static from a folder of manifests. Static also keeps a mirror pod in the API for each of its
// pods; it alone creates them. Neither source runs pods or writes their status.
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

// Annotations of pods that are defined on a node, with kubelet's names.
const (
	SourceAnnotation = "kubernetes.io/config.source"
	SeenAnnotation   = "kubernetes.io/config.seen"
	HashAnnotation   = "kubernetes.io/config.hash"
	MirrorAnnotation = "kubernetes.io/config.mirror"
)

// Mirrors receives the mirror pods of this node from the API server.
type Mirrors interface {
	// ObserveMirror takes the newest version of a mirror pod; gone says that it was deleted.
	ObserveMirror(pod *corev1.Pod, gone bool)
	// MirrorsListed is called after ObserveMirror for every mirror pod of the first list.
	MirrorsListed()
}

// APIConfig of an API source.
type APIConfig struct {
	Client   kubernetes.Interface
	NodeName string
	// Mirrors receives the mirror pods, which this node does not run; nil: they are dropped.
	Mirrors Mirrors
	Log     *slog.Logger
}

// API is the source of the pods that are bound to this node by the API server.
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

// Synced reports whether a complete list of this node's pods was emitted.
func (a *API) Synced() bool { return a.synced.Load() }

// Run lists and watches until ctx ends. It retries failures for ever with growing pauses: an API
// server that does not answer says nothing about pods. A pod is gone when the watch says so, or
// when a complete list no longer has it.
func (a *API) Run(ctx context.Context, emit func(podspec.Update)) error {
	pods := a.config.Client.CoreV1().Pods(metav1.NamespaceAll)
	selector := fields.OneTermEqualSelector("spec.nodeName", a.config.NodeName).String()
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (kruntime.Object, error) {
			o.FieldSelector = selector
			if o.ResourceVersion == "0" {
				// The reflector accepts any version. But pods that the first list lacks are ended
				// as orphans, and the cache of an API server that has just started may lack the
				// newest pods.
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

// podStore turns what the reflector learns into updates.
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

// Delete takes a deleted pod.
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

// Resync does nothing: there is no second store.
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

// tell emits a pod, or hands a mirror pod to Mirrors. s.mu is held.
func (s *podStore) tell(pod *corev1.Pod, gone bool) {
	pod.ManagedFields = nil // large and unused
	if _, mirror := pod.Annotations[MirrorAnnotation]; mirror {
		if m := s.source.config.Mirrors; m != nil {
			m.ObserveMirror(pod, gone)
		}
		return
	}
	s.emit(podspec.Update{UID: pod.UID, Pod: pod, Gone: gone})
}
