package bootstrap

import (
	"net/http"
	"strconv"
)

// Request is one request to the API server, once its answer has begun.
type Request struct {
	// Method is as in HTTP; Host the address that it was made for; Code the status, or "<error>"
	// when there was no answer.
	Method, Host, Code string
}

// reportingTransport tells of every request.
type reportingTransport struct {
	tell func(Request)
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (o *reportingTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := o.next.RoundTrip(r)
	code := "<error>"
	if err == nil {
		code = strconv.Itoa(resp.StatusCode)
	}
	o.tell(Request{Method: r.Method, Host: r.URL.Host, Code: code})
	return resp, err
}

// WrappedRoundTripper lets client-go find the connections below.
func (o *reportingTransport) WrappedRoundTripper() http.RoundTripper { return o.next }
