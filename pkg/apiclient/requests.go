package apiclient

import "github.com/prometheus/client_golang/prometheus"

// Requests counts requests to the API server, under the name that every Kubernetes program has for
// it (component-base metrics/prometheus/restclient).
type Requests struct{ total *prometheus.CounterVec }

// NewRequests makes the counter; register Collector.
func NewRequests() *Requests {
	return &Requests{prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "rest_client_requests_total", Help: "Requests to the API server, by status code, method and host; <error>: no answer came.",
	}, []string{"code", "method", "host"})}
}

// Collector is the counter's metric.
func (r *Requests) Collector() prometheus.Collector { return r.total }

// Count counts one request; code is "<error>" when no answer came.
func (r *Requests) Count(code, method, host string) {
	r.total.WithLabelValues(code, method, host).Inc()
}
