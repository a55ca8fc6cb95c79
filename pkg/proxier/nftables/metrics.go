package nftables

import (
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
)

// Metrics are those of kube-proxy about its nftables rules, by the same names
// (kubernetes/kubernetes pkg/proxy/metrics). A nil one counts nothing.
type Metrics struct {
	syncFailures, cleanupFailures *prometheus.CounterVec
}

// NewMetrics makes them; each family's Backend gets the same.
func NewMetrics() *Metrics {
	counter := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Subsystem: "kubeproxy", Name: name, Help: help}, []string{"ip_family"})
	}
	return &Metrics{
		syncFailures:    counter("sync_proxy_rules_nftables_sync_failures_total", "Cumulative proxy nftables sync failures"),
		cleanupFailures: counter("sync_proxy_rules_nftables_cleanup_failures_total", "Cumulative proxy nftables cleanup failures"),
	}
}

// Collectors are all of them, to be registered.
func (m *Metrics) Collectors() []prometheus.Collector {
	return []prometheus.Collector{m.syncFailures, m.cleanupFailures}
}

// syncFailed counts a refused transaction.
func (m *Metrics) syncFailed(f corev1.IPFamily) {
	if m != nil {
		m.syncFailures.WithLabelValues(string(f)).Inc()
	}
}

// cleanupFailed counts stale chains that could not be deleted.
func (m *Metrics) cleanupFailed(f corev1.IPFamily) {
	if m != nil {
		m.cleanupFailures.WithLabelValues(string(f)).Inc()
	}
}
