// Package podmetrics is EDGE: kubelet's series about pods and the container runtime, by the names
// that dashboards and alerts use (kubernetes/kubernetes pkg/kubelet/metrics). It counts what it is
// told, and reads what runs when it is asked.
package podmetrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// Operations counts and times what the pods' loop asks of the container runtime. Each operation
// has the name of the CRI call that would have done the same.
type Operations struct {
	total, failed *prometheus.CounterVec
	took          *prometheus.HistogramVec
}

// NewOperations registers the series.
func NewOperations(r prometheus.Registerer) *Operations {
	label := []string{"operation_type"}
	o := &Operations{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kubelet_runtime_operations_total", Help: "Operations asked of the container runtime, by type.",
		}, label),
		failed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kubelet_runtime_operations_errors_total", Help: "Operations of the container runtime that failed, by type.",
		}, label),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kubelet_runtime_operations_duration_seconds", Help: "How long operations of the container runtime took, by type.",
			Buckets: prometheus.ExponentialBuckets(0.005, 2.5, 14),
		}, label),
	}
	r.MustRegister(o.total, o.failed, o.took)
	return o
}

// Note counts one operation that has ended; "" stands for work that does not use the runtime.
func (o *Operations) Note(operation string, took time.Duration, err error) {
	if operation == "" {
		return
	}
	o.total.WithLabelValues(operation).Inc()
	o.took.WithLabelValues(operation).Observe(took.Seconds())
	if err != nil {
		o.failed.WithLabelValues(operation).Inc()
	}
}

// Running collects kubelet_running_pods, kubelet_running_containers and kubelet_node_name.
type Running struct {
	node                  string
	pods                  func() []runtime.Pod
	count, containers, me *prometheus.Desc
}

// NewRunning makes the collector; pods returns what the runtime has of this node's pods.
func NewRunning(node string, pods func() []runtime.Pod) *Running {
	return &Running{
		node: node, pods: pods,
		count:      prometheus.NewDesc("kubelet_running_pods", "Pods that have a running sandbox.", nil, nil),
		containers: prometheus.NewDesc("kubelet_running_containers", "Containers, by state.", []string{"container_state"}, nil),
		me:         prometheus.NewDesc("kubelet_node_name", "The node's name; the count is always 1.", []string{"node"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (r *Running) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{r.count, r.containers, r.me} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (r *Running) Collect(out chan<- prometheus.Metric) {
	sandboxes := 0
	states := map[runtime.State]int{runtime.Created: 0, runtime.Running: 0, runtime.Exited: 0, runtime.Unknown: 0}
	for _, pod := range r.pods() {
		if pod.Sandbox != nil && pod.Sandbox.Ready {
			sandboxes++
		}
		for _, c := range pod.Containers {
			states[c.State]++
		}
	}
	out <- prometheus.MustNewConstMetric(r.count, prometheus.GaugeValue, float64(sandboxes))
	for state, n := range states {
		out <- prometheus.MustNewConstMetric(r.containers, prometheus.GaugeValue, float64(n), label(state))
	}
	out <- prometheus.MustNewConstMetric(r.me, prometheus.GaugeValue, 1, r.node)
}

// label is a state as the metric writes it.
func label(s runtime.State) string {
	return map[runtime.State]string{
		runtime.Created: "created", runtime.Running: "running", runtime.Exited: "exited", runtime.Unknown: "unknown",
	}[s]
}
