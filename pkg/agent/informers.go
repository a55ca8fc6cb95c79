package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"
	"unique"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	nodev1 "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	nodelisters "k8s.io/client-go/listers/node/v1"
	"k8s.io/client-go/tools/cache"
)

// grantHint is what a node that may not read EndpointSlices needs (reference: node authorizer rules
// know no EndpointSlices).
const grantHint = "nodes may not read them by themselves: apply deploy/node-proxier.yaml once per cluster, or set proxy mode off"

// watched are the informers that both halves share: Services (the proxy's, and the environment of
// containers) and EndpointSlices. Fields that nobody here reads are dropped before they are kept.
type watched struct {
	factory  informers.SharedInformerFactory
	services cache.SharedIndexInformer
	slices   cache.SharedIndexInformer
	own      cache.SharedIndexInformer // the node's own object
	lister   corelisters.ServiceLister
	classes  nodelisters.RuntimeClassLister
	client   kubernetes.Interface
	synced   []awaited
}

// awaited is something to be told when handlers have seen everything that existed.
type awaited struct {
	registration cache.ResourceEventHandlerRegistration
	tell         func()
}

// onSync has tell called once the handler has seen everything that existed. To be called before
// Run.
func (w *watched) onSync(r cache.ResourceEventHandlerRegistration, tell func()) {
	w.synced = append(w.synced, awaited{r, tell})
}

func newWatched(c kubernetes.Interface, node string, resync time.Duration, withSlices bool, log *slog.Logger) (*watched, error) {
	f := informers.NewSharedInformerFactoryWithOptions(c, resync, informers.WithTransform(slim))
	w := &watched{
		factory: f, services: f.Core().V1().Services().Informer(), lister: f.Core().V1().Services().Lister(),
		classes: f.Node().V1().RuntimeClasses().Lister(), client: c,
	}
	own := informers.NewSharedInformerFactoryWithOptions(c, resync, informers.WithTransform(slim),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, node).String()
		}))
	w.own = own.Core().V1().Nodes().Informer()
	f.Node().V1().RuntimeClasses().Informer() // so that the factory starts it
	named := map[string]cache.SharedIndexInformer{"services": w.services, "nodes": w.own}
	if withSlices {
		w.slices = f.Discovery().V1().EndpointSlices().Informer()
		named["endpointslices"] = w.slices
	}
	for resource, informer := range named {
		err := informer.SetWatchErrorHandlerWithContext(func(ctx context.Context, r *cache.Reflector, err error) {
			if apierrors.IsForbidden(err) && resource == "endpointslices" {
				log.Error("EndpointSlices cannot be watched: Services are not programmed", "err", err, "remedy", grantHint)
				return
			}
			if ctx.Err() == nil {
				log.Warn("Watch ended", "resource", resource, "err", err)
			}
			cache.DefaultWatchErrorHandler(ctx, r, err)
		})
		if err != nil {
			return nil, fmt.Errorf("preparing the watch of %s: %w", resource, err)
		}
	}
	return w, nil
}

// Run watches until ctx ends.
func (w *watched) Run(ctx context.Context) error {
	var running sync.WaitGroup
	running.Go(func() { w.own.RunWithContext(ctx) })
	w.factory.StartWithContext(ctx)
	for _, a := range w.synced {
		running.Go(func() {
			if cache.WaitForCacheSync(ctx.Done(), a.registration.HasSynced) {
				a.tell()
			}
		})
	}
	<-ctx.Done()
	w.factory.Shutdown()
	running.Wait()
	return nil
}

// servicesOf lists the Services that containers of a namespace are told of: its own, and the API
// server's.
func (w *watched) servicesOf(namespace string) ([]*corev1.Service, error) {
	if !w.services.HasSynced() {
		return nil, errors.New("listing services: they have not been read from the API server yet")
	}
	out, err := w.lister.Services(namespace).List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("listing services: %w", err)
	}
	if namespace == metav1.NamespaceDefault {
		return out, nil
	}
	api, err := w.lister.Services(metav1.NamespaceDefault).Get("kubernetes")
	if apierrors.IsNotFound(err) {
		return out, nil
	}
	return append(out, api), err
}

// class finds a RuntimeClass. One that the watch has not told of is asked for: it may be as new as
// the pod that names it.
func (w *watched) class(ctx context.Context, name string) (*nodev1.RuntimeClass, error) {
	found, err := w.classes.Get(name)
	if apierrors.IsNotFound(err) {
		found, err = w.client.NodeV1().RuntimeClasses().Get(ctx, name, metav1.GetOptions{})
	}
	return found, err
}

// node returns the node's own object as last watched, nil if not yet.
func (w *watched) node() *corev1.Node {
	for _, o := range w.own.GetStore().List() {
		if n, ok := o.(*corev1.Node); ok {
			return n
		}
	}
	return nil
}

// slim drops what nobody here reads, which is most of many objects.
func slim(o any) (any, error) {
	m, err := meta.Accessor(o)
	if err != nil {
		return o, nil //nolint:nilerr // a tombstone: it is kept as it is
	}
	m.SetManagedFields(nil)
	switch t := o.(type) {
	case *corev1.Service:
		slimMeta(&t.ObjectMeta)
		slimSpec(&t.Spec)
		t.Status.Conditions = nil
	case *discoveryv1.EndpointSlice:
		slimMeta(&t.ObjectMeta)
		t.UID, t.AddressType = "", shared(t.AddressType)
		for i := range t.Ports {
			share(t.Ports[i].Name)
			share(t.Ports[i].Protocol)
		}
		for i := range t.Endpoints {
			slimEndpoint(&t.Endpoints[i])
		}
	case *corev1.Node:
		t.Status.Images = nil
	}
	return o, nil
}

// slimMeta keeps the labels and annotations that snapshot.Build reads, and shares the text that
// many objects have in common.
func slimMeta(m *metav1.ObjectMeta) {
	m.OwnerReferences, m.Finalizers, m.GenerateName = nil, nil, ""
	m.Namespace = shared(m.Namespace)
	m.Labels = only(m.Labels, discoveryv1.LabelServiceName, discoveryv1.LabelManagedBy, corev1.IsHeadlessService, "service.kubernetes.io/service-proxy-name")
	if by, ok := m.Labels[discoveryv1.LabelManagedBy]; ok {
		m.Labels[discoveryv1.LabelManagedBy] = shared(by)
	}
	m.Annotations = only(m.Annotations, corev1.EndpointsLastChangeTriggerTime)
}

// slimSpec drops what chooses pods, which is the control plane's part.
func slimSpec(s *corev1.ServiceSpec) {
	s.Selector = nil
	s.Type, s.SessionAffinity = shared(s.Type), shared(s.SessionAffinity)
	share(s.IPFamilyPolicy)
	share(s.InternalTrafficPolicy)
	for i := range s.IPFamilies {
		s.IPFamilies[i] = shared(s.IPFamilies[i])
	}
	for i := range s.Ports {
		s.Ports[i].Name, s.Ports[i].Protocol = shared(s.Ports[i].Name), shared(s.Ports[i].Protocol)
	}
	if len(s.ClusterIPs) > 0 && s.ClusterIPs[0] == s.ClusterIP {
		s.ClusterIPs[0] = s.ClusterIP
	}
}

// slimEndpoint keeps of the pod what tells it from others.
func slimEndpoint(e *discoveryv1.Endpoint) {
	e.DeprecatedTopology, e.Hostname = nil, nil
	share(e.NodeName)
	share(e.Zone)
	if e.TargetRef != nil {
		*e.TargetRef = corev1.ObjectReference{Kind: shared(e.TargetRef.Kind), UID: e.TargetRef.UID}
	}
}

// only leaves these in a map of labels; it returns nil if none is left.
func only(all map[string]string, keys ...string) map[string]string {
	maps.DeleteFunc(all, func(key, _ string) bool { return !slices.Contains(keys, key) })
	if len(all) == 0 {
		return nil
	}
	return all
}

// shared is the same text in memory that is stored once.
func shared[T ~string](text T) T { return unique.Make(text).Value() }

// share is shared for an optional text.
func share[T ~string](text *T) {
	if text != nil {
		*text = shared(*text)
	}
}
