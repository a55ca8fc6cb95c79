package proxier

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// Tracker keeps the newest objects. Its methods are called by informer handlers,
// from any goroutine; they store what they get and wake the Loops. Loops wait
// until it is Ready, so that no rule is removed only because its Service has not
// been read yet.
type Tracker struct {
	mu       sync.Mutex
	services map[types.NamespacedName]*corev1.Service
	slices   map[types.NamespacedName]*discoveryv1.EndpointSlice
	sorted   []*corev1.Service // of services; nil: not sorted yet
	node     snapshot.Node
	eligible bool

	servicesSynced, slicesSynced, nodeSynced, addressesSynced bool

	// gone are unready pods that no longer exist, while a slice still has them.
	gone map[types.UID]bool

	changes counts // so far
	unready int    // pods marked so far that slices have
	wake    []chan struct{}
}

// counts are changes of each kind.
type counts struct{ services, slices int }

func (c counts) minus(o counts) counts { return counts{c.services - o.services, c.slices - o.slices} }

// NewTracker makes an empty one.
func NewTracker() *Tracker {
	return &Tracker{
		services: map[types.NamespacedName]*corev1.Service{},
		slices:   map[types.NamespacedName]*discoveryv1.EndpointSlice{},
		node:     snapshot.Node{Unready: map[types.UID]bool{}},
		gone:     map[types.UID]bool{},
		eligible: true,
	}
}

// ServiceChanged stores a Service: old is nil for a new one, new is nil for a deleted
// one. Neither the Tracker nor the caller may change the objects.
func (t *Tracker) ServiceChanged(old, new *corev1.Service) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if new == nil {
		delete(t.services, types.NamespacedName{Namespace: old.Namespace, Name: old.Name})
	} else {
		t.services[types.NamespacedName{Namespace: new.Namespace, Name: new.Name}] = new
	}
	t.sorted = nil
	t.changed(counts{services: 1})
}

// SliceChanged is ServiceChanged for an EndpointSlice.
func (t *Tracker) SliceChanged(old, new *discoveryv1.EndpointSlice) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if new == nil {
		delete(t.slices, types.NamespacedName{Namespace: old.Namespace, Name: old.Name})
	} else {
		t.slices[types.NamespacedName{Namespace: new.Namespace, Name: new.Name}] = new
	}
	if old != nil {
		t.forget(old)
	}
	t.changed(counts{slices: 1})
}

// NodeChanged stores what the Node object says of this node. eligible is false
// while the node is being deleted or drained by the autoscaler: then load
// balancers are asked to send no new connections (KEP-3836).
func (t *Tracker) NodeChanged(n snapshot.Node, eligible bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n.Unready, n.Local = t.node.Unready, t.node.Local
	same := t.nodeSynced && n.Same(t.node)
	t.eligible, t.nodeSynced = eligible, true
	if !same {
		t.node = n
		t.changed(counts{})
	}
}

// AddressesChanged stores the addresses of the machine, sorted.
func (t *Tracker) AddressesChanged(local []netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.addressesSynced && slices.Equal(local, t.node.Local) {
		return
	}
	t.node.Local, t.addressesSynced = slices.Clone(local), true
	t.changed(counts{})
}

// MarkUnready says that a pod of this node has become unready, before the API knows; with unready
// false, that the API is right again.
func (t *Tracker) MarkUnready(pod types.UID, unready bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.markUnready(pod, unready)
}

func (t *Tracker) markUnready(pod types.UID, unready bool) {
	if t.node.Unready[pod] == unready {
		return
	}
	all := maps.Clone(t.node.Unready) // snapshots may hold the old one
	if unready {
		all[pod] = true
	} else {
		delete(all, pod)
	}
	t.node.Unready = all
	if t.listed(pod) {
		if unready {
			t.unready++
		}
		t.changed(counts{})
	}
}

// Unready says whether a pod is marked.
func (t *Tracker) Unready(pod types.UID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.node.Unready[pod]
}

// PodGone says that a pod no longer exists: its mark goes as soon as no slice has the pod.
func (t *Tracker) PodGone(pod types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case !t.node.Unready[pod]:
	case t.listed(pod):
		t.gone[pod] = true
	default:
		t.markUnready(pod, false)
	}
}

// forget removes the marks of pods that are gone, if old was the last slice that had them.
func (t *Tracker) forget(old *discoveryv1.EndpointSlice) {
	if len(t.gone) == 0 {
		return
	}
	for _, e := range old.Endpoints {
		if e.TargetRef != nil && t.gone[e.TargetRef.UID] && !t.listed(e.TargetRef.UID) {
			delete(t.gone, e.TargetRef.UID)
			t.markUnready(e.TargetRef.UID, false)
		}
	}
}

// listed says whether any slice has the pod.
func (t *Tracker) listed(pod types.UID) bool {
	for _, s := range t.slices {
		for i := range s.Endpoints {
			if ref := s.Endpoints[i].TargetRef; ref != nil && ref.UID == pod {
				return true
			}
		}
	}
	return false
}

// ServicesSynced says that every existing Service has been passed to ServiceChanged.
func (t *Tracker) ServicesSynced() { t.synced(&t.servicesSynced) }

// SlicesSynced says that every existing EndpointSlice has been passed to SliceChanged.
func (t *Tracker) SlicesSynced() { t.synced(&t.slicesSynced) }

func (t *Tracker) synced(what *bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !*what {
		*what = true
		t.changed(counts{})
	}
}

// Ready says whether Services, EndpointSlices, the node and its addresses are all known.
func (t *Tracker) Ready() bool { return len(t.Missing()) == 0 }

// Missing names what is not known yet, for a status.
func (t *Tracker) Missing() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []string
	for _, s := range []struct {
		name string
		ok   bool
	}{{"services", t.servicesSynced}, {"endpointslices", t.slicesSynced}, {"properties of the node", t.nodeSynced}, {"addresses of this machine", t.addressesSynced}} {
		if !s.ok {
			out = append(out, s.name)
		}
	}
	return out
}

// NodeEligible is the last value passed to NodeChanged.
func (t *Tracker) NodeEligible() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.eligible
}

func (t *Tracker) changed(c counts) {
	t.changes.services += c.services
	t.changes.slices += c.slices
	for _, w := range t.wake {
		select {
		case w <- struct{}{}:
		default: // the Loop has not seen the last one yet
		}
	}
}

// total returns the number of changes so far.
func (t *Tracker) total() counts {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.changes
}

// unreadyMarks returns how many pods have been marked so far that slices have.
func (t *Tracker) unreadyMarks() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.unready
}

// subscribe returns a channel that has an element if something has changed since it
// was last read.
func (t *Tracker) subscribe() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := make(chan struct{}, 1)
	w <- struct{}{}
	t.wake = append(t.wake, w)
	return w
}

func (t *Tracker) unsubscribe(w <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.wake = slices.DeleteFunc(t.wake, func(c chan struct{}) bool { return c == w })
}

// objects returns everything, Services sorted by name.
func (t *Tracker) objects() ([]*corev1.Service, []*discoveryv1.EndpointSlice, snapshot.Node) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sorted == nil {
		t.sorted = slices.SortedFunc(maps.Values(t.services), func(a, b *corev1.Service) int {
			if c := strings.Compare(a.Namespace, b.Namespace); c != 0 {
				return c
			}
			return strings.Compare(a.Name, b.Name)
		})
	}
	all := slices.AppendSeq(make([]*discoveryv1.EndpointSlice, 0, len(t.slices)), maps.Values(t.slices))
	return t.sorted, all, t.node
}
