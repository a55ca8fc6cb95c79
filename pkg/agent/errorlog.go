package agent

import (
	"context"
	"log/slog"
	"slices"
	"sync"

	"github.com/nodeagent/nodeagent/pkg/status/summary"
)

// keptErrors is how many errors `nodeagent status` can show.
const keptErrors = 20

// errorLog passes log records on and remembers the last errors among them.
type errorLog struct {
	slog.Handler
	kept *keptLog
	text string // attributes that With has added, as text
}

// keptLog is shared by all handlers that With has made.
type keptLog struct {
	mu     sync.Mutex
	errors []summary.Error // oldest first
}

func newErrorLog(next slog.Handler) *errorLog { return &errorLog{Handler: next, kept: &keptLog{}} }

// Handle implements slog.Handler.
func (l *errorLog) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelError {
		text := r.Message + l.text
		r.Attrs(func(a slog.Attr) bool {
			text += " " + a.String()
			return true
		})
		l.kept.mu.Lock()
		l.kept.errors = append(l.kept.errors, summary.Error{At: r.Time, Text: text})
		if extra := len(l.kept.errors) - keptErrors; extra > 0 {
			l.kept.errors = slices.Delete(l.kept.errors, 0, extra)
		}
		l.kept.mu.Unlock()
	}
	return l.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (l *errorLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	text := l.text
	for _, a := range attrs {
		text += " " + a.String()
	}
	return &errorLog{l.Handler.WithAttrs(attrs), l.kept, text}
}

// WithGroup implements slog.Handler.
func (l *errorLog) WithGroup(name string) slog.Handler {
	return &errorLog{l.Handler.WithGroup(name), l.kept, l.text}
}

// last returns the errors, newest first.
func (l *errorLog) last() []summary.Error {
	l.kept.mu.Lock()
	defer l.kept.mu.Unlock()
	out := slices.Clone(l.kept.errors)
	slices.Reverse(out)
	return out
}
