package objects

import (
	"context"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// entry is one object that pods use. Its version only grows: older answers are dropped. The
// exception is a read from the server that is older than the entry: then the server's store was
// restored from a backup.
type entry struct {
	key  key
	done chan struct{} // closed when no pod uses it any more
	// still is closed when the object turns out immutable, which ends its watch.
	still chan struct{}
	// rewound holds one item when the server's store was restored, so that the watch waits for
	// versions that will not come.
	rewound chan struct{}

	mu        sync.Mutex
	pods      map[types.UID]bool
	wanted    int           // number of fresh reads that were asked for
	fetched   int           // number of those that a read from the server has answered
	object    metav1.Object // nil: it does not exist
	version   uint64        // of the newest answer
	watched   bool          // the watch has delivered its first list
	final     bool          // the object is immutable
	unwatched bool          // it was immutable once: its watch has ended
	answered  bool          // a pod has read it: later changes matter to that pod

	fetching sync.Mutex // held during a read from the server
}

func newEntry(k key) *entry {
	return &entry{
		key: k, done: make(chan struct{}), still: make(chan struct{}), rewound: make(chan struct{}, 1), pods: map[types.UID]bool{},
	}
}

func (e *entry) use(pod types.UID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.pods[pod] {
		e.pods[pod] = true
		e.wanted++
	}
}

// unuse drops a user, and reports whether it was the last one.
func (e *entry) unuse(pod types.UID) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.pods, pod)
	if len(e.pods) > 0 {
		return false
	}
	close(e.done)
	return true
}

// users are the pods that use the object.
func (e *entry) users() []types.UID {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := make([]types.UID, 0, len(e.pods))
	for uid := range e.pods {
		list = append(list, uid)
	}
	return list
}

type fetcher func(ctx context.Context, k key) (metav1.Object, error)

// read answers from the entry if each use so far has had a fresh read; otherwise it asks the
// server.
func (e *entry) read(ctx context.Context, fetch fetcher) (metav1.Object, error) {
	if object, err, ok := e.held(); ok {
		return object, err
	}
	e.fetching.Lock()
	defer e.fetching.Unlock()
	if object, err, ok := e.held(); ok { // another goroutine has asked meanwhile
		return object, err
	}
	e.mu.Lock()
	use, before := e.wanted, e.version
	e.mu.Unlock()
	object, err := fetch(ctx, e.key)
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case err == nil:
		e.fetched = max(e.fetched, use)
		e.answered = true
		newest := version(object.GetResourceVersion())
		if newest < before {
			e.rewind()
		}
		e.learn(object, newest)
		if e.object != nil {
			object = e.object
		}
		return object, nil
	case apierrors.IsNotFound(err) && e.object == nil:
		e.fetched = max(e.fetched, use)
		e.answered = true
	case apierrors.IsNotFound(err) && e.version > before: // it was created meanwhile
		e.answered = true
		return e.object, nil
	}
	return nil, err
}

// rewind forgets a version that the server no longer knows, and restarts the watch. e.mu is held.
func (e *entry) rewind() {
	e.version, e.watched = 0, false
	select {
	case e.rewound <- struct{}{}:
	default:
	}
}

// held is the answer from the entry, if it is known to be current.
func (e *entry) held() (metav1.Object, error, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.fetched < e.wanted, !e.final && (!e.watched || e.unwatched):
		return nil, nil, false
	case e.object == nil:
		return nil, notFound(e.key), true
	default:
		return e.object, nil, true
	}
}

// learn stores an answer (nil: the object does not exist), and reports whether it changed the
// entry. e.mu is held.
func (e *entry) learn(object metav1.Object, version uint64) bool {
	if version < e.version {
		return false
	}
	changed := (object == nil) != (e.object == nil) ||
		(object != nil && (object.GetUID() != e.object.GetUID() || object.GetResourceVersion() != e.object.GetResourceVersion()))
	e.object, e.version = object, version
	e.final = object != nil && immutable(object)
	if e.final && !e.unwatched {
		e.unwatched = true
		close(e.still)
	}
	return changed
}

func immutable(object metav1.Object) bool {
	switch o := object.(type) {
	case *corev1.ConfigMap:
		return o.Immutable != nil && *o.Immutable
	case *corev1.Secret:
		return o.Immutable != nil && *o.Immutable
	}
	return false
}
