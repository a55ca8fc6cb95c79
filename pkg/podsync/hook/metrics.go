package hook

import "github.com/prometheus/client_golang/prometheus"

// Metrics is kubelet_lifecycle_handler_http_fallbacks_total. A nil Metrics counts nothing.
type Metrics struct{ fallbacks prometheus.Counter }

// NewMetrics makes the metric and registers it.
func NewMetrics(r prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{fallbacks: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "kubelet_lifecycle_handler_http_fallbacks_total",
		Help: "Lifecycle hooks over HTTPS that succeeded only in plain HTTP.",
	})}
	return m, r.Register(m.fallbacks) //nolint:wrapcheck // says which metric it is
}

func (m *Metrics) fallback() {
	if m != nil {
		m.fallbacks.Inc()
	}
}
