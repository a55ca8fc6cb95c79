package bootstrap

import (
	"net/http"
	"strconv"
)

// Request is one request to the API server, reported when its response begins.
type Request struct {
	// Method is HTTP's, Host the address of the request, Code the status, or "<error>" without a
	// response.
	Method, Host, Code string
}

// reportingTransport reports each request.
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

// WrappedRoundTripper gives client-go access to the connections below.
func (o *reportingTransport) WrappedRoundTripper() http.RoundTripper { return o.next }
