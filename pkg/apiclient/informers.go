// Package apiclient is EDGE: what the halves share of the connection to the API server. It watches
// the objects that more than one half needs (the node's own Node, Services, EndpointSlices,
// RuntimeClasses), keeps the fields that somebody reads, and counts requests. It writes nothing.
package apiclient

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	nodev1 "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	nodelisters "k8s.io/client-go/listers/node/v1"
	"k8s.io/client-go/tools/cache"
)

// GrantHint says what a node needs that may not read EndpointSlices: the node authorizer's rules
// do not cover them.
const GrantHint = "nodes may not read them by themselves: apply deploy/node-proxier.yaml once per cluster, or set proxy mode off"

// InformersConfig is what Informers are made from.
type InformersConfig struct {
	Client   kubernetes.Interface
	NodeName string
	Resync   time.Duration
	// Slices has EndpointSlices watched, too.
	Slices bool
	Log    *slog.Logger
}

// Informers watch the objects that more than one part needs. Fields that nobody reads are dropped
// before an object is kept.
type Informers struct {
	client   kubernetes.Interface
	factory  informers.SharedInformerFactory
	services cache.SharedIndexInformer
	slices   cache.SharedIndexInformer // nil: not watched
	own      cache.SharedIndexInformer // the node's own object
	lister   corelisters.ServiceLister
	classes  nodelisters.RuntimeClassLister
	synced   []onSync
}

// onSync is a callback for the moment when a handler has seen every object of the first list.
type onSync struct {
	registration cache.ResourceEventHandlerRegistration
	call         func()
}

// NewInformers makes Informers; they watch nothing until Run.
func NewInformers(c InformersConfig) (*Informers, error) {
	f := informers.NewSharedInformerFactoryWithOptions(c.Client, c.Resync, informers.WithTransform(slim))
	own := informers.NewSharedInformerFactoryWithOptions(c.Client, c.Resync, informers.WithTransform(slim),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, c.NodeName).String()
		}))
	i := &Informers{
		client: c.Client, factory: f, own: own.Core().V1().Nodes().Informer(),
		services: f.Core().V1().Services().Informer(), lister: f.Core().V1().Services().Lister(), classes: f.Node().V1().RuntimeClasses().Lister(),
	}
	f.Node().V1().RuntimeClasses().Informer() // the factory starts only informers that were asked for
	watched := map[string]cache.SharedIndexInformer{"services": i.services, "nodes": i.own}
	if c.Slices {
		i.slices = f.Discovery().V1().EndpointSlices().Informer()
		watched["endpointslices"] = i.slices
	}
	for resource, informer := range watched {
		if err := informer.SetWatchErrorHandlerWithContext(watchErrors(resource, c.Log)); err != nil {
			return nil, fmt.Errorf("preparing the watch of %s: %w", resource, err)
		}
	}
	return i, nil
}

// watchErrors logs why a watch has ended. A node that may not read EndpointSlices gets the remedy.
func watchErrors(resource string, log *slog.Logger) cache.WatchErrorHandlerWithContext {
	return func(ctx context.Context, r *cache.Reflector, err error) {
		if apierrors.IsForbidden(err) && resource == "endpointslices" {
			log.Error("EndpointSlices cannot be watched: Services are not programmed", "err", err, "remedy", GrantHint)
			return
		}
		if ctx.Err() == nil {
			log.Warn("Watch ended", "resource", resource, "err", err)
		}
		cache.DefaultWatchErrorHandler(ctx, r, err)
	}
}

// Run watches until ctx ends.
func (i *Informers) Run(ctx context.Context) error {
	var running sync.WaitGroup
	running.Go(func() { i.own.RunWithContext(ctx) })
	i.factory.StartWithContext(ctx)
	for _, s := range i.synced {
		running.Go(func() {
			if cache.WaitForCacheSync(ctx.Done(), s.registration.HasSynced) {
				s.call()
			}
		})
	}
	<-ctx.Done()
	i.factory.Shutdown()
	running.Wait()
	return nil
}

// OnService has changed called for every change of a Service, and synced (may be nil) once it has
// been called for all that existed. A nil old object is new; a nil new one was deleted. Call it
// before Run, as the other two.
func (i *Informers) OnService(changed func(old, new *corev1.Service), synced func()) error {
	return add(i, i.services, changed, synced)
}

// OnSlice is OnService for EndpointSlices.
func (i *Informers) OnSlice(changed func(old, new *discoveryv1.EndpointSlice), synced func()) error {
	if i.slices == nil {
		return errors.New("watching EndpointSlices: InformersConfig.Slices is false")
	}
	return add(i, i.slices, changed, synced)
}

// OnNode is OnService for the node's own object.
func (i *Informers) OnNode(changed func(old, new *corev1.Node), synced func()) error {
	return add(i, i.own, changed, synced)
}

func add[T any](i *Informers, informer cache.SharedIndexInformer, changed func(old, new *T), synced func()) error {
	registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { changed(nil, as[T](o)) },
		UpdateFunc: func(old, o any) { changed(as[T](old), as[T](o)) },
		DeleteFunc: func(o any) {
			if t, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = t.Obj
			}
			if gone := as[T](o); gone != nil {
				changed(gone, nil)
			}
		},
	})
	if err != nil {
		return fmt.Errorf("watching %T: %w", *new(T), err)
	}
	if synced != nil {
		i.synced = append(i.synced, onSync{registration, synced})
	}
	return nil
}

func as[T any](o any) *T {
	t, _ := o.(*T)
	return t
}

// Services lists the Services that containers of a namespace get environment variables for: its
// own and the API server's.
func (i *Informers) Services(namespace string) ([]*corev1.Service, error) {
	if !i.services.HasSynced() {
		return nil, errors.New("listing services: they have not been read from the API server yet")
	}
	out, err := i.lister.Services(namespace).List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("listing services: %w", err)
	}
	if namespace == metav1.NamespaceDefault {
		return out, nil
	}
	api, err := i.lister.Services(metav1.NamespaceDefault).Get("kubernetes")
	if apierrors.IsNotFound(err) {
		return out, nil
	}
	return append(out, api), err
}

// Count returns how many Services and endpoints are known.
func (i *Informers) Count() (services, endpoints int) {
	if i.slices == nil {
		return len(i.services.GetStore().ListKeys()), 0
	}
	for _, o := range i.slices.GetStore().List() {
		if slice := as[discoveryv1.EndpointSlice](o); slice != nil {
			endpoints += len(slice.Endpoints)
		}
	}
	return len(i.services.GetStore().ListKeys()), endpoints
}

// RuntimeClass finds a RuntimeClass. The API server is asked for one that the watch does not have:
// it may be as new as the pod that names it.
func (i *Informers) RuntimeClass(ctx context.Context, name string) (*nodev1.RuntimeClass, error) {
	found, err := i.classes.Get(name)
	if apierrors.IsNotFound(err) {
		found, err = i.client.NodeV1().RuntimeClasses().Get(ctx, name, metav1.GetOptions{})
	}
	if err != nil {
		return nil, fmt.Errorf("looking up RuntimeClass %q: %w", name, err)
	}
	return found, nil
}

// RuntimeHandler returns a function that finds the runtime handler of a RuntimeClass among those
// that the runtime knows. The default one is "" (KEP-585).
func (i *Informers) RuntimeHandler(known []string) func(ctx context.Context, class string) (string, error) {
	return func(ctx context.Context, class string) (string, error) {
		if class == "" {
			return "", nil
		}
		found, err := i.RuntimeClass(ctx, class)
		if err != nil {
			return "", err
		}
		if found.Handler == "" || slices.Contains(known, found.Handler) {
			return found.Handler, nil
		}
		return "", fmt.Errorf("no runtime for %q is configured: RuntimeClass %q names it; runtime handlers here are %q", found.Handler, class, known)
	}
}

// Node returns the node's own object as last watched; nil before the first.
func (i *Informers) Node() *corev1.Node {
	for _, o := range i.own.GetStore().List() {
		if n := as[corev1.Node](o); n != nil {
			return n
		}
	}
	return nil
}
