package server

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"
)

// Bounds of the reviews that anyone can cause by sending requests.
const (
	reviewTime  = 10 * time.Second // of one review, including the wait for a slot
	reviewSlots = 8                // reviews at a time
	maxWaiting  = 256              // requests that wait for an answer
)

// errBusy is answered with 429.
var errBusy = errors.New("too many requests wait for a review by the API server")

// reviews asks the API server: one review at a time for the same question, and few reviews in all.
type reviews struct {
	group   singleflight.Group
	slots   chan struct{}
	waiting atomic.Int64
}

func newReviews() *reviews { return &reviews{slots: make(chan struct{}, reviewSlots)} }

// ask returns the answer to a question. The review goes on after its first caller has left, since
// others may wait for it.
func ask[V any](ctx context.Context, r *reviews, key string, question func(context.Context) (V, error)) (V, error) {
	var none V
	defer r.waiting.Add(-1)
	if r.waiting.Add(1) > maxWaiting {
		return none, errBusy
	}
	answer := r.group.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reviewTime)
		defer cancel()
		select {
		case r.slots <- struct{}{}:
			defer func() { <-r.slots }()
		case <-ctx.Done():
			return none, errBusy
		}
		return question(ctx)
	})
	select {
	case a := <-answer:
		if a.Err != nil {
			return none, a.Err
		}
		return a.Val.(V), nil
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// refusalTime is the shortest time between two log lines about refused requests.
const refusalTime = 10 * time.Second

// refusals counts refused requests between two log lines.
type refusals struct {
	mu    sync.Mutex
	last  time.Time
	count int
}

func (f *refusals) tell(c Config, r *http.Request, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count++
	now := c.Now()
	if since := now.Sub(f.last); since >= 0 && since < refusalTime {
		return
	}
	c.Log.Info("Requests to the node API were refused", "count", f.count, "path", r.URL.Path, "from", r.RemoteAddr, "err", err)
	f.last, f.count = now, 0
}
