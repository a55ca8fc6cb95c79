package iptables

import (
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/proxier/iptables/rules"
)

// Metrics are those of kube-proxy about its iptables rules, by the same names
// (kubernetes/kubernetes pkg/proxy/metrics). A nil one counts nothing.
type Metrics struct {
	total, last               *prometheus.GaugeVec
	failures, partialFailures *prometheus.CounterVec
}

// NewMetrics makes them; each family's Engine gets the same.
func NewMetrics() *Metrics {
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Subsystem: "kubeproxy", Name: name, Help: help}, []string{"table", "ip_family"})
	}
	counter := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Subsystem: "kubeproxy", Name: name, Help: help}, []string{"ip_family"})
	}
	return &Metrics{
		total:           gauge("sync_proxy_rules_iptables_total", "Total number of iptables rules owned by kube-proxy"),
		last:            gauge("sync_proxy_rules_iptables_last", "Number of iptables rules written by kube-proxy in last sync"),
		failures:        counter("sync_proxy_rules_iptables_restore_failures_total", "Cumulative proxy iptables restore failures"),
		partialFailures: counter("sync_proxy_rules_iptables_partial_restore_failures_total", "Cumulative proxy iptables partial restore failures"),
	}
}

// Collectors are all of them, to be registered.
func (m *Metrics) Collectors() []prometheus.Collector {
	return []prometheus.Collector{m.total, m.last, m.failures, m.partialFailures}
}

// wrote sets the number of rules of each table, and of those just written.
func (m *Metrics) wrote(f corev1.IPFamily, want, change *rules.Ruleset) {
	if m == nil {
		return
	}
	for _, table := range []string{"filter", "nat"} {
		m.total.WithLabelValues(table, string(f)).Set(float64(want.Rules(table)))
		m.last.WithLabelValues(table, string(f)).Set(float64(change.Rules(table)))
	}
}

// failed counts a failed restore; partial: of a change only.
func (m *Metrics) failed(f corev1.IPFamily, partial bool) {
	if m == nil {
		return
	}
	m.failures.WithLabelValues(string(f)).Inc()
	if partial {
		m.partialFailures.WithLabelValues(string(f)).Inc()
	}
}
