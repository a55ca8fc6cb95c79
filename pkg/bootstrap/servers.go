package bootstrap

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptrace"
	"slices"
	"sync/atomic"
)

// servers are the addresses of one cluster's API, host:port each, and the one in use. All clients
// of an identity share it, so that none tries an address first that another found dead.
type servers struct {
	list   []string
	chosen atomic.Uint32
}

// current is the address in use.
func (s *servers) current() string {
	return s.list[int(s.chosen.Load())%len(s.list)]
}

// leave switches to the next address, unless another request has already left this one.
func (s *servers) leave(address string) {
	n := s.chosen.Load()
	if s.list[int(n)%len(s.list)] == address {
		s.chosen.CompareAndSwap(n, n+1)
	}
}

// failover sends a request to the address in use and, if that fails, to each of the others once.
//
// It repeats a request only if that cannot do a thing twice: the request never left this machine,
// or it only reads. Otherwise the caller gets the failure, and the next request goes to another
// address. failover stays with an address that works: a return to the first one would drop every
// watch again, on every node at once.
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
			// a load balancer or a stopping server says so: the caller gets the answer, the next
			// request goes to another address
			if unavailable(resp.StatusCode) {
				f.leave(address)
			}
			return resp, nil
		}
		all = errors.Join(all, err)
		// net/http also cancels a request that took too long, but then there is a deadline
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

// WrappedRoundTripper gives client-go access to the connections below.
func (f *failover) WrappedRoundTripper() http.RoundTripper { return f.next }

// address returns the request for one address; sent is set once it has a connection.
func (f *failover) address(r *http.Request, address string) (attempt *http.Request, sent *atomic.Bool, err error) {
	sent = new(atomic.Bool)
	attempt = r.Clone(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent.Store(true) }}))
	attempt.Cancel = nil //nolint:staticcheck // http.Client sets it beside the context and closes it first: only the context shall say whether the caller gave up
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
