package podsync

import (
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/podsync/podplan"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// store has an entry for each pod that a source or the host knows.
type store struct {
	mu      sync.Mutex
	entries map[types.UID]*entry
	count   int // of entries ever made: their order
	// admission is held while one pod is compared with the others, so that two never take the same
	// resources.
	admission sync.Mutex
}

// entry is one pod: an inbox that anyone fills, and the state of its worker, which only steps
// touch.
type entry struct {
	uid   types.UID
	order int

	mu       sync.Mutex
	ref      runtime.PodRef
	update   podspec.Update
	known    bool // a source has emitted it
	ended    *podspec.Termination
	admitted bool
	// allocated is the pod of the last step, with what it was allocated; nil before the first step
	allocated *corev1.Pod
	deferred  bool // it requests more than the node has
	results   []result
	changed   []podspec.ObjectRef // objects that the pod names and that have changed
	info      PodInfo

	worker worker
}

// result is how an action ended.
type result struct {
	key    string
	action podplan.Action // nil: a refresh of volumes
	podplan.ActionResult
	took time.Duration
}

func (s *store) get(uid types.UID) *entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.entries[uid]
}

func (s *store) uids() []types.UID {
	s.mu.Lock()
	defer s.mu.Unlock()
	uids := make([]types.UID, 0, len(s.entries))
	for uid := range s.entries {
		uids = append(uids, uid)
	}
	return uids
}

func (s *store) all() []*entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	entries := make([]*entry, 0, len(s.entries))
	for _, e := range s.entries {
		entries = append(entries, e)
	}
	return entries
}

// ensure returns the entry, and makes it if there is none.
func (s *store) ensure(uid types.UID) *entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ensureLocked(uid)
}

func (s *store) ensureLocked(uid types.UID) *entry {
	e := s.entries[uid]
	if e == nil {
		s.count++
		e = &entry{uid: uid, order: s.count, ref: runtime.PodRef{UID: uid}}
		e.worker.reset()
		s.entries[uid] = e
	}
	return e
}

// found makes an entry for a pod that the host has something of.
func (s *store) found(ref runtime.PodRef) {
	e := s.ensure(ref.UID)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ref.Name == "" {
		e.ref = ref
	}
}

// put takes an update and says whether it interrupts the running step: an end, or a shorter grace.
func (s *store) put(u podspec.Update) (interrupt bool) {
	if u.Gone && s.get(u.UID) == nil {
		return false
	}
	s.mu.Lock()
	e := s.ensureLocked(u.UID)
	e.mu.Lock() // before drop can take the entry
	s.mu.Unlock()
	defer e.mu.Unlock()
	interrupt = u.Gone || u.Pod.DeletionTimestamp != nil
	e.update, e.known = u, true
	e.ref = runtime.PodRef{UID: u.UID, Namespace: u.Pod.Namespace, Name: u.Pod.Name}
	return interrupt
}

// drop forgets an entry, unless a source brought the pod back meanwhile.
func (s *store) drop(e *entry) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.known && !e.update.Gone {
		return false
	}
	delete(s.entries, e.uid)
	return true
}

// sameName returns the other entries whose pod has this name.
func (s *store) sameName(e *entry) []*entry {
	var found []*entry
	ref := e.name()
	if ref.Name == "" {
		return nil
	}
	for _, other := range s.all() {
		if o := other.name(); other != e && o.Name == ref.Name && o.Namespace == ref.Namespace {
			found = append(found, other)
		}
	}
	return found
}

// admittedPods are the pods that take resources of the node, without e.
func (s *store) admittedPods(e *entry) []*corev1.Pod {
	var pods []*corev1.Pod
	for _, other := range s.all() {
		if other == e {
			continue
		}
		other.mu.Lock()
		if pod := other.update.Pod; other.known && !other.update.Gone && other.takesResources() && !podspec.Terminal(pod.Status.Phase) {
			if other.allocated != nil {
				pod = other.allocated
			}
			pods = append(pods, pod)
		}
		other.mu.Unlock()
	}
	return pods
}

// takesResources says that the pod was admitted, or ran before the agent started. The caller holds
// the lock.
func (e *entry) takesResources() bool {
	if e.ended != nil {
		return false
	}
	return e.admitted || e.update.Pod.Status.Phase == corev1.PodRunning
}

func (e *entry) name() runtime.PodRef {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.ref
}

// inbox is what has come in since the last step.
type inbox struct {
	ref      runtime.PodRef
	update   podspec.Update
	known    bool
	ended    *podspec.Termination
	admitted bool
	results  []result
	changed  []podspec.ObjectRef
}

// take empties the inbox.
func (e *entry) take() inbox {
	e.mu.Lock()
	defer e.mu.Unlock()
	in := inbox{
		ref: e.ref, update: e.update, known: e.known, ended: e.ended, admitted: e.admitted,
		results: e.results, changed: e.changed,
	}
	e.results, e.changed = nil, nil
	return in
}

func (e *entry) deliver(r result) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.results = append(e.results, r)
}

func (e *entry) change(o podspec.ObjectRef) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !slices.Contains(e.changed, o) {
		e.changed = append(e.changed, o)
	}
}

func (e *entry) end(o podspec.Termination) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ended == nil {
		e.ended = &o
	}
}

func (e *entry) admit() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.admitted = true
}

// restart begins a new life of the same UID: its manifest was removed and put back.
func (e *entry) restart() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ended, e.admitted, e.changed, e.results = nil, false, nil, nil
	e.allocated, e.deferred = nil, false
	e.worker.reset()
}

// fail keeps an error of a step or an action, for Snapshot. Of a nil entry it keeps none.
func (e *entry) fail(err error) {
	if e == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.info.LastError = err.Error()
}
