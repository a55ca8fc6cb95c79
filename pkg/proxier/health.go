package proxier

import (
	"encoding/json"
	"net/http"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Health answers whether the services half keeps up, as kube-proxy's healthz
// server does: every family has synced once, and no change has waited longer
// than twice the sync period.
type Health struct {
	now      func() time.Time
	patience time.Duration
	eligible func() bool

	mu       sync.Mutex
	families map[corev1.IPFamily]*familyHealth
	counted  func(path string, code int)
}

type familyHealth struct {
	updated time.Time // of the last sync that succeeded
	queued  time.Time // of the oldest change since; zero: none
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

// Failed says why a family is not programmed while it has no Loop yet.
func (h *Health) Failed(f corev1.IPFamily, err error) { h.failed(f, err) }

func (h *Health) failed(f corev1.IPFamily, err error) {
	h.change(f, func(s *familyHealth) { s.err = err })
}

// Status is the state of one family, for `nodeagent status`.
type Status struct {
	Family corev1.IPFamily
	// Synced is the end of the last sync that succeeded; zero: none did.
	Synced time.Time
	// Err is that of the last sync; nil if it succeeded.
	Err error
}

// Status of every family, sorted.
func (h *Health) Status() []Status {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []Status
	for f, s := range h.families {
		out = append(out, Status{Family: f, Synced: s.updated, Err: s.err})
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
	h.mu.Lock()
	defer h.mu.Unlock()
	ok = len(h.families) > 0
	for _, s := range h.families {
		if s.updated.IsZero() || !s.queued.IsZero() && h.now().Sub(s.queued) > h.patience {
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
	LastUpdated  time.Time `json:"lastUpdated"`
	CurrentTime  time.Time `json:"currentTime"`
	NodeEligible *bool     `json:"nodeEligible,omitempty"`
}

// Handler serves /healthz, which load balancers ask and which also says 503
// while the node is to be left alone, and /livez, which does not.
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
	if ok {
		updated = now // in sync until this moment, as kube-proxy reports it
	}
	h.counted(path, code)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body{LastUpdated: updated, CurrentTime: now, NodeEligible: eligible})
}

// ModeHandler answers /proxyMode with the name of the backend.
func ModeHandler(mode string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_, _ = w.Write([]byte(mode))
	})
}
