package containerd

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// stalledError says why a pull without progress was cancelled.
type stalledError struct {
	hosts []string // that did not answer
	after time.Duration
}

func (e *stalledError) Error() string {
	return fmt.Sprintf("cancelled, because %s sent nothing for %s (imagePullProgressDeadline): is the registry, or what is between it "+
		"and this node, overloaded?", strings.Join(e.hosts, ", "), e.after)
}

// progress counts the open requests between a pull and its registries. A pull stalls when requests
// are open and none of them receives anything before the deadline. With no request open, as while
// layers are unpacked, it never stalls.
type progress struct {
	deadline time.Duration
	cancel   context.CancelCauseFunc

	mu    sync.Mutex
	open  map[string]int // open requests by host
	timer *time.Timer    // nil without a deadline
}

// watchProgress returns a context that is cancelled with a stalledError when the pull stalls. A
// deadline of 0 disables that.
func watchProgress(ctx context.Context, deadline time.Duration) (context.Context, *progress, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	p := &progress{deadline: deadline, cancel: cancel, open: map[string]int{}}
	if deadline > 0 {
		p.timer = time.AfterFunc(deadline, p.expire)
		p.timer.Stop()
	}
	return ctx, p, func() {
		cancel(context.Canceled)
		if p.timer != nil {
			p.timer.Stop()
		}
	}
}

// change notes that a request to host began (1), received something (0) or ended (-1).
func (p *progress) change(host string, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open[host] += n; p.open[host] == 0 {
		delete(p.open, host)
	}
	switch {
	case p.timer == nil:
	case len(p.open) == 0:
		p.timer.Stop()
	case n <= 0 || len(p.open) == 1 && p.open[host] == 1:
		p.timer.Reset(p.deadline)
	}
}

func (p *progress) expire() {
	p.mu.Lock()
	hosts := slices.Sorted(maps.Keys(p.open))
	p.mu.Unlock()
	if len(hosts) > 0 {
		p.cancel(&stalledError{hosts, p.deadline})
	}
}

// watchedTransport reports every request and every byte of a response to a progress.
type watchedTransport struct {
	http.RoundTripper
	progress *progress
}

func (t watchedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	host := r.URL.Host
	t.progress.change(host, 1)
	answer, err := t.RoundTripper.RoundTrip(r)
	if err != nil || answer.Body == nil {
		t.progress.change(host, -1)
		return answer, err
	}
	t.progress.change(host, 0)
	answer.Body = &watchedBody{ReadCloser: answer.Body, progress: t.progress, host: host}
	return answer, nil
}

// watchedBody is a response body; its request counts as open until it is closed.
type watchedBody struct {
	io.ReadCloser
	progress *progress
	host     string
	closed   sync.Once
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.progress.change(b.host, 0)
	}
	return n, err
}

func (b *watchedBody) Close() error {
	b.closed.Do(func() { b.progress.change(b.host, -1) })
	return b.ReadCloser.Close()
}
