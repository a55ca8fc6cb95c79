package proxier

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// Metrics are those that kube-proxy has in every mode, by the same names
// (kubernetes/kubernetes pkg/proxy/metrics), so that its dashboards and alerts keep
// working.
type Metrics struct {
	started time.Time

	duration, full, partial, programming *prometheus.HistogramVec
	lastSync, lastQueued                 *prometheus.GaugeVec
	endpointChanges, serviceChanges      *prometheus.CounterVec
	endpointsPending, servicesPending    *prometheus.GaugeVec
	withoutRules                         *prometheus.GaugeVec
	noLocal                              *prometheus.GaugeVec
	healthz, livez                       *prometheus.CounterVec
	ConntrackDuration                    *prometheus.HistogramVec
	ConntrackDeleted                     *prometheus.CounterVec
}

// done is one sync that succeeded.
type done struct {
	begin   time.Time
	took    time.Duration
	changes counts // since the last one
	full    bool   // everything was written
}

// NewMetrics makes them; changes older than started do not count as latency.
func NewMetrics(started time.Time) *Metrics {
	byFamily := []string{"ip_family"}
	wide := prometheus.ExponentialBuckets(0.001, 2, 15)
	return &Metrics{
		started:  started,
		duration: histogram("sync_proxy_rules_duration_seconds", "SyncProxyRules latency in seconds", wide, byFamily),
		full:     histogram("sync_full_proxy_rules_duration_seconds", "SyncProxyRules latency in seconds for full resyncs", wide, byFamily),
		partial:  histogram("sync_partial_proxy_rules_duration_seconds", "SyncProxyRules latency in seconds for partial resyncs", wide, byFamily),
		programming: histogram("network_programming_duration_seconds", "In Cluster Network Programming Latency in seconds",
			programmingBuckets(), byFamily),
		lastSync:         gauge("sync_proxy_rules_last_timestamp_seconds", "The last time proxy rules were successfully synced", byFamily),
		lastQueued:       gauge("sync_proxy_rules_last_queued_timestamp_seconds", "The last time a sync of proxy rules was queued", byFamily),
		endpointChanges:  counter("sync_proxy_rules_endpoint_changes_total", "Cumulative proxy rules Endpoint changes", byFamily),
		serviceChanges:   counter("sync_proxy_rules_service_changes_total", "Cumulative proxy rules Service changes", byFamily),
		endpointsPending: gauge("sync_proxy_rules_endpoint_changes_pending", "Pending proxy rules Endpoint changes", byFamily),
		servicesPending:  gauge("sync_proxy_rules_service_changes_pending", "Pending proxy rules Service changes", byFamily),
		withoutRules: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Subsystem: "nodeagent", Name: "service_rules_left_out", Help: "1 for each Service port whose rules the kernel refused",
		}, []string{"ip_family", "object"}),
		noLocal:           gauge("sync_proxy_rules_no_local_endpoints_total", "Number of services with a Local traffic policy and no endpoints", []string{"traffic_policy", "ip_family"}),
		healthz:           counter("proxy_healthz_total", "Cumulative proxy healthz HTTP status", []string{"code"}),
		livez:             counter("proxy_livez_total", "Cumulative proxy livez HTTP status", []string{"code"}),
		ConntrackDuration: histogram("conntrack_reconciler_sync_duration_seconds", "ReconcileConntrackFlowsLatency latency in seconds", wide, byFamily),
		ConntrackDeleted:  counter("conntrack_reconciler_deleted_entries_total", "Cumulative conntrack flows deleted by conntrack reconciler", byFamily),
	}
}

func histogram(name, help string, buckets []float64, labels []string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Subsystem: "kubeproxy", Name: name, Help: help, Buckets: buckets}, labels)
}

func gauge(name, help string, labels []string) *prometheus.GaugeVec {
	return prometheus.NewGaugeVec(prometheus.GaugeOpts{Subsystem: "kubeproxy", Name: name, Help: help}, labels)
}

func counter(name, help string, labels []string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Subsystem: "kubeproxy", Name: name, Help: help}, labels)
}

// programmingBuckets resolve the seconds that the SLO of Kubernetes is about.
func programmingBuckets() []float64 {
	out := []float64{0.01, 0.025, 0.05, 0.1, 0.25, 0.5}
	out = append(out, prometheus.LinearBuckets(1, 1, 59)...)
	out = append(out, prometheus.LinearBuckets(60, 5, 12)...)
	return append(out, prometheus.LinearBuckets(120, 30, 7)...)
}

// Collectors are all of them, to be registered.
func (m *Metrics) Collectors() []prometheus.Collector {
	return []prometheus.Collector{
		m.duration, m.full, m.partial, m.programming, m.lastSync, m.lastQueued, m.endpointChanges, m.serviceChanges,
		m.endpointsPending, m.servicesPending, m.noLocal, m.withoutRules, m.healthz, m.livez, m.ConntrackDuration, m.ConntrackDeleted,
	}
}

// Count counts the answers of h.
func (m *Metrics) Count(h *Health) {
	h.counted = func(path string, code int) {
		if path == "/livez" {
			m.livez.WithLabelValues(strconv.Itoa(code)).Inc()
			return
		}
		m.healthz.WithLabelValues(strconv.Itoa(code)).Inc()
	}
}

// queued notes that a sync is due, for changes that no sync has written yet.
func (m *Metrics) queued(f corev1.IPFamily, at time.Time, pending counts) {
	m.lastQueued.WithLabelValues(string(f)).Set(float64(at.UnixNano()) / 1e9)
	m.endpointsPending.WithLabelValues(string(f)).Set(float64(pending.slices))
	m.servicesPending.WithLabelValues(string(f)).Set(float64(pending.services))
}

func (m *Metrics) synced(f corev1.IPFamily, prev, now *snapshot.Snapshot, d done) {
	family := string(f)
	seconds := d.took.Seconds()
	m.duration.WithLabelValues(family).Observe(seconds)
	kind := m.partial
	if d.full {
		kind = m.full
	}
	kind.WithLabelValues(family).Observe(seconds)
	end := d.begin.Add(d.took)
	m.lastSync.WithLabelValues(family).Set(float64(end.UnixNano()) / 1e9)
	m.endpointChanges.WithLabelValues(family).Add(float64(d.changes.slices))
	m.serviceChanges.WithLabelValues(family).Add(float64(d.changes.services))
	m.endpointsPending.WithLabelValues(family).Set(0)
	m.servicesPending.WithLabelValues(family).Set(0)
	for _, at := range newTriggers(prev, now, m.started) {
		m.programming.WithLabelValues(family).Observe(end.Sub(at).Seconds())
	}
	internal, external := withoutLocal(now)
	m.noLocal.WithLabelValues("internal", family).Set(float64(internal))
	m.noLocal.WithLabelValues("external", family).Set(float64(external))
}

// leftOut replaces the ports that have no rules.
func (m *Metrics) leftOut(f corev1.IPFamily, problems []snapshot.Problem) {
	m.withoutRules.DeletePartialMatch(prometheus.Labels{"ip_family": string(f)})
	for _, p := range problems {
		m.withoutRules.WithLabelValues(string(f), p.Object).Set(1)
	}
}

// newTriggers are the times of changes that came with now, after since.
func newTriggers(prev, now *snapshot.Snapshot, since time.Time) []time.Time {
	var out []time.Time
	before := map[string]time.Time{}
	same := map[*snapshot.Service]bool{}
	if prev != nil {
		for _, svc := range prev.Services {
			same[svc] = true
			for _, t := range svc.Triggers {
				before[svc.Namespace+"/"+t.Slice] = t.At
			}
		}
	}
	for _, svc := range now.Services {
		if same[svc] {
			continue
		}
		for _, t := range svc.Triggers {
			if t.At.After(since) && !t.At.Equal(before[svc.Namespace+"/"+t.Slice]) {
				out = append(out, t.At)
			}
		}
	}
	return out
}

// withoutLocal counts ports whose traffic is dropped here because they have no local endpoint.
func withoutLocal(s *snapshot.Snapshot) (internal, external int) {
	for _, svc := range s.Services {
		for _, p := range svc.Ports {
			if !p.HasEndpoints || len(p.Local) > 0 {
				continue
			}
			if p.InternalLocal {
				internal++
			}
			if p.ExternalLocal {
				external++
			}
		}
	}
	return internal, external
}
