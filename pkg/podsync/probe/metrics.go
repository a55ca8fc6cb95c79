package probe

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// Metrics are prober_probe_total and prober_probe_duration_seconds, with kubelet's labels. A nil
// Metrics counts nothing.
type Metrics struct {
	total    *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

// NewMetrics makes the metrics and registers them.
func NewMetrics(r prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "prober_probe_total",
			Help: "Cumulative number of a liveness, readiness or startup probe for a container by result.",
		}, []string{"probe_type", "result", "container", "pod", "namespace", "pod_uid"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "prober_probe_duration_seconds",
			Help: "Duration in seconds for a probe response.",
		}, []string{"probe_type", "container", "pod", "namespace"}),
	}
	for _, c := range []prometheus.Collector{m.total, m.duration} {
		if err := r.Register(c); err != nil {
			return nil, err //nolint:wrapcheck // says which metric it is
		}
	}
	return m, nil
}

func (m *Metrics) count(w *worker, r podspec.ProbeResult, took time.Duration) {
	if m == nil {
		return
	}
	result := "successful"
	switch r {
	case podspec.ProbeFailure:
		result = "failed"
	case podspec.NotProbed:
		result = "unknown"
	case podspec.ProbeSuccess:
		m.duration.WithLabelValues(string(w.kind), w.container.Name, w.pod.Name, w.pod.Namespace).Observe(took.Seconds())
	}
	m.total.WithLabelValues(string(w.kind), result, w.container.Name, w.pod.Name, w.pod.Namespace, string(w.pod.UID)).Inc()
}

// forget deletes the series of a pod.
func (m *Metrics) forget(pod runtime.PodRef) {
	if m == nil {
		return
	}
	m.total.DeletePartialMatch(prometheus.Labels{"pod_uid": string(pod.UID)})
	m.duration.DeletePartialMatch(prometheus.Labels{"pod": pod.Name, "namespace": pod.Namespace})
}
