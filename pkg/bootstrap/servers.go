package bootstrap

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptrace"
	"slices"
	"sync/atomic"
)

// servers are the addresses of one cluster's API, host:port each, and which of them is in use. All
// clients of an identity share it: what one finds to be dead the others do not try first.
type servers struct {
	list   []string
	chosen atomic.Uint32
}

// current is the address in use.
func (s *servers) current() string {
	return s.list[int(s.chosen.Load())%len(s.list)]
}

// leave goes on to the next address, unless another request has already left this one.
func (s *servers) leave(address string) {
	n := s.chosen.Load()
	if s.list[int(n)%len(s.list)] == address {
		s.chosen.CompareAndSwap(n, n+1)
	}
}

// failover sends a request to the address in use, and where that fails to the others in turn, each
// once.
//
// A request is repeated only where that cannot do a thing twice: it never left this machine, or it
// only reads. Otherwise its failure goes to the caller as it is, and the next request goes
// elsewhere. It stays with an address that works: going back to the first as soon as it answers
// would drop every watch again, on every node at once.
type failover struct {
	*servers
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (f *failover) RoundTrip(r *http.Request) (*http.Response, error) {
	var all error
	if r.Body != nil && r.GetBody != nil {
		_ = r.Body.Close() // every attempt gets its own
	}
	for range f.list {
		address := f.current()
		attempt, sent, err := f.address(r, address)
		if err != nil {
			return nil, errors.Join(all, err)
		}
		resp, err := f.next.RoundTrip(attempt)
		if err == nil {
			// a balancer's word, or a server that goes down: the caller has to know, the next
			// request need not meet it
			if unavailable(resp.StatusCode) {
				f.leave(address)
			}
			return resp, nil
		}
		all = errors.Join(all, err)
		// net/http ends a request that took too long by cancelling it too, but then it has a
		// deadline
		if _, bounded := r.Context().Deadline(); !bounded && errors.Is(r.Context().Err(), context.Canceled) {
			return nil, all
		}
		f.leave(address)
		if r.Context().Err() != nil || (sent.Load() && !reads(r)) || (r.Body != nil && r.GetBody == nil) {
			return nil, all
		}
	}
	return nil, all
}

// WrappedRoundTripper lets client-go find the connections below.
func (f *failover) WrappedRoundTripper() http.RoundTripper { return f.next }

// address returns the request as it goes to one address, and whether a connection has been found
// for it.
func (f *failover) address(r *http.Request, address string) (attempt *http.Request, sent *atomic.Bool, err error) {
	sent = new(atomic.Bool)
	attempt = r.Clone(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent.Store(true) }}))
	attempt.Cancel = nil //nolint:staticcheck // http.Client sets it beside the context and closes it first: whether the caller has given up must be one question
	if slices.Contains(f.list, r.URL.Host) {
		attempt.URL.Host, attempt.Host = address, address
	}
	if r.GetBody != nil {
		if attempt.Body, err = r.GetBody(); err != nil {
			return nil, nil, err
		}
	}
	return attempt, sent, nil
}

func reads(r *http.Request) bool { return r.Method == http.MethodGet || r.Method == http.MethodHead }

func unavailable(status int) bool {
	return status == http.StatusBadGateway || status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout
}
