package objects

import (
	"context"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
)

// watch follows one object until nobody uses it, it proves immutable, or ctx ends.
func (o *Objects) watch(ctx context.Context, group *sync.WaitGroup, e *entry) {
	group.Go(func() {
		for again := true; again; {
			again = o.follow(ctx, e)
		}
	})
}

// follow watches, and says whether the watch is to begin anew, since the server's store was set
// back.
func (o *Objects) follow(ctx context.Context, e *entry) bool {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	source, sample := listWatch(o.config.Client, e.key)
	reflector := cache.NewReflectorWithOptions(source, sample, store{entry: e, changed: o.config.Changed},
		cache.ReflectorOptions{Name: e.key.String()})
	running.Go(func() { reflector.RunWithContext(ctx) })
	select {
	case <-ctx.Done():
	case <-e.done:
	case <-e.still:
	case <-e.rewound:
		return true
	}
	return false
}

// listWatch asks for one object by name: the only list that a node is allowed.
func listWatch(client kubernetes.Interface, k key) (cache.ListerWatcher, runtime.Object) {
	narrow := func(options *metav1.ListOptions) {
		options.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, k.Name).String()
	}
	var lw *cache.ListWatch
	var sample runtime.Object
	switch k.Kind {
	case podspec.ConfigMap:
		maps := client.CoreV1().ConfigMaps(k.namespace)
		sample = &corev1.ConfigMap{}
		lw = &cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
				narrow(&options)
				return maps.List(ctx, options)
			},
			WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
				narrow(&options)
				return maps.Watch(ctx, options)
			},
		}
	default:
		secrets := client.CoreV1().Secrets(k.namespace)
		sample = &corev1.Secret{}
		lw = &cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
				narrow(&options)
				return secrets.List(ctx, options)
			},
			WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
				narrow(&options)
				return secrets.Watch(ctx, options)
			},
		}
	}
	return cache.ToListWatcherWithWatchListSemantics(lw, client), sample
}

// store is the reflector's view of an entry.
type store struct {
	entry   *entry
	changed func(podspec.ObjectRef, []types.UID)
}

// Add takes an object in.
func (s store) Add(obj any) error { return s.Update(obj) }

// Update takes an object in.
func (s store) Update(obj any) error {
	object, err := s.mine(obj)
	if object != nil {
		s.learn(object, version(object.GetResourceVersion()), false)
	}
	return err
}

// Delete takes in that the object is gone, at the version of its deletion.
func (s store) Delete(obj any) error {
	object, err := s.mine(obj)
	if object != nil {
		s.learn(nil, version(object.GetResourceVersion()), false)
	}
	return err
}

// Replace takes a whole list in: one object or none.
func (s store) Replace(list []any, listVersion string) error {
	for _, obj := range list {
		object, err := s.mine(obj)
		if err != nil {
			return err
		}
		if object != nil {
			s.learn(object, version(object.GetResourceVersion()), true)
			return nil
		}
	}
	s.learn(nil, version(listVersion), true)
	return nil
}

// mine is nil for an object that was not asked for, should a server not honour the selector.
func (s store) mine(obj any) (metav1.Object, error) {
	object, err := meta.Accessor(obj)
	if err != nil || object.GetName() != s.entry.key.Name {
		return nil, err
	}
	return object, nil
}

// Resync does nothing: there is no second store to bring in line.
func (store) Resync() error { return nil }

// learn takes in what the watch says, and tells the users of a change; nobody who has not read the
// object yet.
func (s store) learn(object metav1.Object, version uint64, whole bool) {
	e := s.entry
	e.mu.Lock()
	var changed bool
	if whole && version < e.version {
		// The list is from a cache that is behind, or the server's store was set back: the next
		// reading asks for the truth.
		e.wanted++
		changed = true
	} else {
		changed = e.learn(object, version)
	}
	changed = changed && e.answered
	e.watched = e.watched || whole
	e.mu.Unlock()
	if changed && s.changed != nil {
		s.changed(e.key.ObjectRef, e.users())
	}
}
