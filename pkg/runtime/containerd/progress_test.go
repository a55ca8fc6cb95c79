package containerd

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// registryFunc is a registry without a network.
type registryFunc func(*http.Request) (*http.Response, error)

func (f registryFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// slowBody returns a byte after each pause and then, unless it ends, nothing until the request is
// cancelled.
type slowBody struct {
	ctx   context.Context
	every time.Duration
	bytes int
	ends  bool
}

func (b *slowBody) Read(p []byte) (int, error) {
	if b.bytes == 0 && b.ends {
		return 0, io.EOF
	}
	wait := b.every
	if b.bytes == 0 {
		wait = time.Hour
	}
	select {
	case <-time.After(wait):
		b.bytes--
		p[0] = 'x'
		return 1, nil
	case <-b.ctx.Done():
		return 0, b.ctx.Err()
	}
}

func (b *slowBody) Close() error { return nil }

func TestAPullWithoutProgressIsCancelled(t *testing.T) {
	answer := func(every time.Duration, bytes int, ends bool) registryFunc {
		return func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: &slowBody{r.Context(), every, bytes, ends}}, nil
		}
	}
	silent := registryFunc(func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, r.Context().Err()
	})
	for name, c := range map[string]struct {
		registry registryFunc
		// before the request, while no request is open: layers are unpacked
		pause    time.Duration
		deadline time.Duration
		after    time.Duration // of the cancellation; 0: there is none
	}{
		"no answer":                 {registry: silent, deadline: time.Minute, after: time.Minute},
		"an answer that stops":      {registry: answer(30*time.Second, 10, false), deadline: time.Minute, after: 6 * time.Minute},
		"slow, but going on":        {registry: answer(59*time.Second, 100, true), deadline: time.Minute},
		"slower than the deadline":  {registry: answer(61*time.Second, 100, true), deadline: time.Minute, after: time.Minute},
		"nothing asked for an hour": {registry: answer(time.Second, 1, true), pause: time.Hour, deadline: time.Minute},
		"no deadline":               {registry: answer(30*time.Minute, 2, true)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				ctx, watch, stop := watchProgress(t.Context(), c.deadline)
				defer stop()
				time.Sleep(c.pause) // of the test's own clock
				request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://slow.test/v2/", nil)
				if err != nil {
					t.Fatal(err)
				}
				resp, err := watchedTransport{c.registry, watch}.RoundTrip(request)
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
					if err := resp.Body.Close(); err != nil {
						t.Error(err)
					}
				}
				var stalled *stalledError
				switch {
				case c.after == 0:
					if err != nil || ctx.Err() != nil {
						t.Errorf("cancelled after %s: %v", time.Since(began), err)
					}
				case !errors.As(context.Cause(ctx), &stalled) || time.Since(began) != c.after:
					t.Errorf("after %s: %v; want a cancellation after %s", time.Since(began), context.Cause(ctx), c.after)
				case !strings.Contains(stalled.Error(), "slow.test sent nothing for 1m0s"):
					t.Errorf("the error does not name registry and time: %v", stalled)
				}
				if len(watch.open) != 0 {
					t.Errorf("requests still open: %v", watch.open)
				}
			})
		})
	}
}
