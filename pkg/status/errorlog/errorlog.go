// Package errorlog is EDGE: it keeps the last errors of the agent's log in memory for `nodeagent
// status`, and passes every record on to the log itself. It writes nothing.
package errorlog

import (
	"context"
	"log/slog"
	"slices"
	"sync"

	"github.com/nodeagent/nodeagent/pkg/status/summary"
)

// capacity is how many errors are kept.
const capacity = 20

// Handler is a slog.Handler that keeps the last errors it has seen.
type Handler struct {
	slog.Handler
	kept  *ring
	attrs string // the attributes that With has added, as text
}

// ring is shared by all handlers that With has made of one.
type ring struct {
	mu     sync.Mutex
	errors []summary.Error // oldest first
}

// New makes a Handler that passes records on to next.
func New(next slog.Handler) *Handler { return &Handler{Handler: next, kept: &ring{}} }

// Handle implements slog.Handler.
func (h *Handler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelError {
		text := r.Message + h.attrs
		r.Attrs(func(a slog.Attr) bool {
			text += " " + a.String()
			return true
		})
		h.kept.add(summary.Error{At: r.Time, Text: text})
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h *Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	text := h.attrs
	for _, a := range attrs {
		text += " " + a.String()
	}
	return &Handler{h.Handler.WithAttrs(attrs), h.kept, text}
}

// WithGroup implements slog.Handler.
func (h *Handler) WithGroup(name string) slog.Handler {
	return &Handler{h.Handler.WithGroup(name), h.kept, h.attrs}
}

// Last returns the errors, newest first.
func (h *Handler) Last() []summary.Error {
	h.kept.mu.Lock()
	defer h.kept.mu.Unlock()
	out := slices.Clone(h.kept.errors)
	slices.Reverse(out)
	return out
}

func (r *ring) add(e summary.Error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errors = append(r.errors, e)
	if extra := len(r.errors) - capacity; extra > 0 {
		r.errors = slices.Delete(r.errors, 0, extra)
	}
}
