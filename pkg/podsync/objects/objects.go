// Package objects is EDGE: a cache of the ConfigMaps, Secrets and service-account tokens that pods
// of this node use. It watches each object on its own, because a node may read only what its pods
// name; it reads an immutable object once. The first read for a new pod asks the API server, so
// that a pod never starts with contents older than itself. It reads the API, and writes nothing but
// token requests.
//
//	Use(pod) ──► entry: watched, wanted++ ──► first ConfigMap() asks the server ──► later ones answer from the watch
//	Forget(pod) of the last user ──► the watch ends, the entry is deleted
package objects

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
)

// Config is what Objects are made from.
type Config struct {
	Client kubernetes.Interface
	// Services lists the Services of a namespace and default/kubernetes; it returns an error until
	// they have been read once.
	Services func(namespace string) ([]*corev1.Service, error)
	// Changed is called when an object was changed, created or deleted, with the pods that use it;
	// it must not block. nil: nothing is called.
	Changed func(o podspec.ObjectRef, pods []types.UID)
	// Now is the clock.
	Now func() time.Time
	Log *slog.Logger
}

// Objects is a volume.Objects for concurrent use. Without Run it watches nothing, but reads all the
// same.
type Objects struct {
	config Config
	tokens tokens

	mu      sync.Mutex
	entries map[key]*entry
	pending []*entry      // whose watch starts next
	wake    chan struct{} // holds one item while pending is not empty
}

// key names one object of the cluster.
type key struct {
	namespace string
	podspec.ObjectRef
}

func (k key) String() string { return k.Kind + " " + k.namespace + "/" + k.Name }

// New checks the configuration.
func New(c Config) (*Objects, error) {
	if c.Client == nil || c.Services == nil || c.Now == nil || c.Log == nil {
		return nil, errors.New("making the cache of API objects: Client, Services, Now and Log are required")
	}
	return &Objects{
		config:  c,
		tokens:  tokens{client: c.Client, now: c.Now, byKey: map[tokenKey]*token{}},
		entries: map[key]*entry{},
		wake:    make(chan struct{}, 1),
	}, nil
}

// Run watches what pods use until ctx ends.
func (o *Objects) Run(ctx context.Context) error {
	var group sync.WaitGroup
	defer group.Wait()
	for {
		o.mu.Lock()
		start := o.pending
		o.pending = nil
		o.mu.Unlock()
		for _, e := range start {
			o.watch(ctx, &group, e)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-o.wake:
		}
	}
}

// Use watches what the pod's spec names; see volume.Objects.
func (o *Objects) Use(pod *corev1.Pod) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for ref := range podspec.Objects(pod) {
		k := key{pod.Namespace, ref}
		e := o.entries[k]
		if e == nil {
			e = newEntry(k)
			o.entries[k] = e
			o.pending = append(o.pending, e)
			select {
			case o.wake <- struct{}{}:
			default:
			}
		}
		e.use(pod.UID)
	}
}

// Forget drops what only this pod used.
func (o *Objects) Forget(pod types.UID) {
	o.tokens.forget(pod)
	o.mu.Lock()
	defer o.mu.Unlock()
	for k, e := range o.entries {
		if e.unuse(pod) {
			delete(o.entries, k)
		}
	}
	o.pending = slices.DeleteFunc(o.pending, func(e *entry) bool { return o.entries[e.key] != e })
}

// Services lists those of a namespace; see volume.Objects.
func (o *Objects) Services(namespace string) ([]*corev1.Service, error) {
	return o.config.Services(namespace)
}

// ConfigMap returns the newest known object; see volume.Objects.
func (o *Objects) ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	return read[*corev1.ConfigMap](ctx, o, key{namespace, podspec.ObjectRef{Kind: podspec.ConfigMap, Name: name}})
}

// Secret returns the newest known object; see volume.Objects.
func (o *Objects) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	return read[*corev1.Secret](ctx, o, key{namespace, podspec.ObjectRef{Kind: podspec.Secret, Name: name}})
}

// Token returns a bound token; see volume.Objects.
func (o *Objects) Token(ctx context.Context, pod *corev1.Pod, audience string, expirationSeconds int64) (string, error) {
	return o.tokens.get(ctx, pod, audience, expirationSeconds)
}

func read[T metav1.Object](ctx context.Context, o *Objects, k key) (T, error) {
	var none T
	o.mu.Lock()
	e := o.entries[k]
	o.mu.Unlock()
	var object metav1.Object
	var err error
	if e == nil { // no pod that uses it was announced: it is not cached
		object, err = o.fetch(ctx, k)
	} else {
		object, err = e.read(ctx, o.fetch)
	}
	if err != nil {
		return none, err
	}
	typed, ok := object.(T)
	if !ok {
		return none, fmt.Errorf("reading %s: the cache holds a %T", k, object)
	}
	return typed, nil
}

// fetch reads an object from the API server.
func (o *Objects) fetch(ctx context.Context, k key) (metav1.Object, error) {
	var object metav1.Object
	err := retry(ctx, behindPod, func() (err error) {
		switch k.Kind {
		case podspec.ConfigMap:
			object, err = o.config.Client.CoreV1().ConfigMaps(k.namespace).Get(ctx, k.Name, metav1.GetOptions{})
		default:
			object, err = o.config.Client.CoreV1().Secrets(k.namespace).Get(ctx, k.Name, metav1.GetOptions{})
		}
		return err
	})
	if apierrors.IsNotFound(err) {
		return nil, notFound(k)
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", k, err)
	}
	return object, nil
}

// notFound is the API error with the text: configmap "x" not found.
func notFound(k key) error { return apierrors.NewNotFound(corev1.Resource(k.Kind), k.Name) }

// version is a resource version as a number: they are numbers that grow (KEP-5504).
func version(resourceVersion string) uint64 {
	v, err := strconv.ParseUint(resourceVersion, 10, 64)
	if err != nil {
		return 0
	}
	return v
}
