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

// watch follows one object until no pod uses it, it turns out immutable, or ctx ends.
func (o *Objects) watch(ctx context.Context, group *sync.WaitGroup, e *entry) {
	group.Go(func() {
		for again := true; again; {
			again = o.follow(ctx, e)
		}
	})
}

// follow watches, and reports whether to start over because the server's store was restored.
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

// listWatch lists and watches one object by name: the only list that a node is allowed.
func listWatch(client kubernetes.Interface, k key) (cache.ListerWatcher, runtime.Object) {
	var lw *cache.ListWatch
	var sample runtime.Object
	switch k.Kind {
	case podspec.ConfigMap:
		lw, sample = named[*corev1.ConfigMapList](client.CoreV1().ConfigMaps(k.namespace), k.Name), &corev1.ConfigMap{}
	default:
		lw, sample = named[*corev1.SecretList](client.CoreV1().Secrets(k.namespace), k.Name), &corev1.Secret{}
	}
	return cache.ToListWatcherWithWatchListSemantics(lw, client), sample
}

// objectsOf is the part of a typed client that lists and watches.
type objectsOf[L runtime.Object] interface {
	List(ctx context.Context, options metav1.ListOptions) (L, error)
	Watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error)
}

func named[L runtime.Object](client objectsOf[L], name string) *cache.ListWatch {
	selector := fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			options.FieldSelector = selector
			return client.List(ctx, options)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.FieldSelector = selector
			return client.Watch(ctx, options)
		},
	}
}

// store passes what a reflector learns to an entry.
type store struct {
	entry   *entry
	changed func(podspec.ObjectRef, []types.UID)
}

// Add stores an object.
func (s store) Add(obj any) error { return s.Update(obj) }

// Update stores an object.
func (s store) Update(obj any) error {
	object, err := s.mine(obj)
	if object != nil {
		s.learn(object, version(object.GetResourceVersion()), false)
	}
	return err
}

// Delete stores that the object was deleted, at the version of its deletion.
func (s store) Delete(obj any) error {
	object, err := s.mine(obj)
	if object != nil {
		s.learn(nil, version(object.GetResourceVersion()), false)
	}
	return err
}

// Replace stores a complete list: one object or none.
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

// mine returns nil for another object, in case a server ignores the selector.
func (s store) mine(obj any) (metav1.Object, error) {
	object, err := meta.Accessor(obj)
	if err != nil || object.GetName() != s.entry.key.Name {
		return nil, err
	}
	return object, nil
}

// Resync does nothing: there is no second store.
func (store) Resync() error { return nil }

// learn stores what the watch delivers, and reports a change to the pods that use the object, once
// one of them has read it.
func (s store) learn(object metav1.Object, version uint64, whole bool) {
	e := s.entry
	e.mu.Lock()
	var changed bool
	if whole && version < e.version {
		// The list is from a stale cache, or the server's store was restored: the next read asks
		// the server.
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
