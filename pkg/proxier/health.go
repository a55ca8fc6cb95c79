package proxier

import (
	"encoding/json"
	"net/http"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Health says whether the services half keeps up, as kube-proxy's healthz server
// does: every family has synced once, and no change or repair has waited longer
// than twice the sync period. A family that is not the primary one and has never
// been programmed does not count: the machine does not support it, and the node
// works without it.
type Health struct {
	now      func() time.Time
	patience time.Duration
	eligible func() bool
	primary  func() corev1.IPFamily // nil: every family is primary

	mu       sync.Mutex
	families map[corev1.IPFamily]*familyHealth
	counted  func(path string, code int)
}

type familyHealth struct {
	updated time.Time // of the last sync that succeeded
	queued  time.Time // of the oldest change that is not written; zero: there is none
	err     error     // of the last sync
}

// NewHealth makes one; patience is twice the sync period, eligible is
// Tracker.NodeEligible.
func NewHealth(now func() time.Time, patience time.Duration, eligible func() bool) *Health {
	return &Health{now: now, patience: patience, eligible: eligible, families: map[corev1.IPFamily]*familyHealth{}, counted: func(string, int) {}}
}

func (h *Health) change(f corev1.IPFamily, change func(*familyHealth)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.families[f] == nil {
		h.families[f] = &familyHealth{}
	}
	change(h.families[f])
}

// Primary sets which family the node needs; without it, the node needs each. It is called before
// anything else.
func (h *Health) Primary(primary func() corev1.IPFamily) { h.primary = primary }

// counts says whether the state of a family that the node does not need counts: unless programming
// it has never succeeded.
func (*Health) counts(s *familyHealth) bool { return !s.updated.IsZero() || s.err == nil }

// late says whether a family has never been programmed, or a change has waited too long.
func (h *Health) late(s *familyHealth) bool {
	return s.updated.IsZero() || !s.queued.IsZero() && h.now().Sub(s.queued) >= h.patience
}

func (h *Health) expect(f corev1.IPFamily) { h.change(f, func(*familyHealth) {}) }

func (h *Health) queued(f corev1.IPFamily, at time.Time) {
	h.change(f, func(s *familyHealth) {
		if s.queued.IsZero() {
			s.queued = at
		}
	})
}

func (h *Health) synced(f corev1.IPFamily, at time.Time) {
	h.change(f, func(s *familyHealth) { *s = familyHealth{updated: at} })
}

// Failed sets why the last sync failed, or why the family has no Loop yet.
func (h *Health) Failed(f corev1.IPFamily, err error) {
	h.change(f, func(s *familyHealth) { s.err = err })
}

// Status is the state of one family, for `nodeagent status`.
type Status struct {
	Family corev1.IPFamily
	// Synced is the end of the last sync that succeeded; zero: none did.
	Synced time.Time
	// Err is that of the last sync; nil if it succeeded.
	Err error
	// Healthy says that it keeps up.
	Healthy bool
}

// Status of every family, sorted.
func (h *Health) Status() []Status {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []Status
	for f, s := range h.families {
		out = append(out, Status{Family: f, Synced: s.updated, Err: s.err, Healthy: !h.late(s)})
	}
	slices.SortFunc(out, func(a, b Status) int {
		if a.Family < b.Family {
			return -1
		}
		return 1
	})
	return out
}

// Healthy says whether every family keeps up, and when the last of them synced.
func (h *Health) Healthy() (ok bool, updated time.Time) {
	needed := func(corev1.IPFamily) bool { return true }
	if h.primary != nil {
		primary := h.primary()
		needed = func(f corev1.IPFamily) bool { return f == primary }
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for f := range h.families {
		ok = ok || needed(f)
	}
	for f, s := range h.families {
		if h.late(s) && (needed(f) || h.counts(s)) {
			ok = false
		}
		if s.updated.After(updated) {
			updated = s.updated
		}
	}
	return ok, updated
}

// body is the answer of kube-proxy's healthz server.
type body struct {
	LastUpdated  time.Time                      `json:"lastUpdated"`
	CurrentTime  time.Time                      `json:"currentTime"`
	NodeEligible *bool                          `json:"nodeEligible,omitempty"`
	Healthy      bool                           `json:"healthy"`
	Status       map[corev1.IPFamily]familyBody `json:"status,omitempty"`
}

// familyBody is one family's part of it.
type familyBody struct {
	LastUpdated time.Time `json:"lastUpdated"`
	Healthy     bool      `json:"healthy"`
}

// Handler serves /healthz, which load balancers ask and which is also 503 while
// the node should get no new connections, and /livez, which does not depend on that.
func (h *Health) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		eligible := h.eligible()
		h.answer(w, "/healthz", eligible, &eligible)
	})
	mux.HandleFunc("/livez", func(w http.ResponseWriter, _ *http.Request) { h.answer(w, "/livez", true, nil) })
	return mux
}

func (h *Health) answer(w http.ResponseWriter, path string, wanted bool, eligible *bool) {
	ok, updated := h.Healthy()
	code := http.StatusOK
	if !ok || !wanted {
		code = http.StatusServiceUnavailable
	}
	now := h.now()
	if code == http.StatusOK {
		updated = now // as kube-proxy reports it
	}
	families := map[corev1.IPFamily]familyBody{}
	for _, s := range h.Status() {
		if !s.Synced.IsZero() {
			families[s.Family] = familyBody{LastUpdated: s.Synced, Healthy: s.Healthy}
		}
	}
	h.counted(path, code)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body{LastUpdated: updated, CurrentTime: now, NodeEligible: eligible, Healthy: ok, Status: families})
}
