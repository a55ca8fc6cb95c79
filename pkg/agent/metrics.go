package agent

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nodeagent/nodeagent/pkg/podsync/podplan"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// registerBoth has the ports of both halves show what each of kubelet and kube-proxy has of
// itself: the process, and what it asks the API server. Everything else is on one port only, or
// whoever collects both would have it twice.
func registerBoth(kubelet, proxy *prometheus.Registry, all ...prometheus.Collector) {
	kubelet.MustRegister(all...)
	proxy.MustRegister(all...)
}

// modes tells which proxy mode was asked for and which is programmed; the value is always 1.
func (s *services) modes() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "nodeagent_proxy_mode", Help: "The proxy mode that was asked for, and the one that is programmed; the value is always 1.",
		ConstLabels: prometheus.Labels{"asked": string(s.config.Proxy.Mode), "programmed": string(s.mode())},
	}, func() float64 { return 1 })
}

// operations are kubelet's metrics of what is asked of the container runtime
// (kubernetes/kubernetes pkg/kubelet/metrics), by the names of the CRI's calls that the same work
// would have been, so that dashboards and alerts keep working.
type operations struct {
	total, failed *prometheus.CounterVec
	took          *prometheus.HistogramVec
}

func newOperations(r *prometheus.Registry) *operations {
	label := []string{"operation_type"}
	o := &operations{
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

// note is podsync's OnAction.
func (o *operations) note(a podplan.Action, took time.Duration, err error) {
	name := operationOf(a)
	if name == "" {
		return
	}
	o.total.WithLabelValues(name).Inc()
	o.took.WithLabelValues(name).Observe(took.Seconds())
	if err != nil {
		o.failed.WithLabelValues(name).Inc()
	}
}

// operationOf is the CRI's name of an action; "" for one that the runtime has no part in.
func operationOf(a podplan.Action) string {
	switch a.(type) {
	case podplan.StartSandbox:
		return "run_podsandbox"
	case podplan.RemoveSandbox:
		return "remove_podsandbox"
	case podplan.EnsureImage:
		return "pull_image"
	case podplan.StartContainer:
		return "start_container"
	case podplan.StopContainer:
		return "stop_container"
	case podplan.RemoveContainer:
		return "remove_container"
	case podplan.UpdateResources:
		return "update_container_resources"
	case podplan.RunHook:
		return "exec_sync"
	}
	return ""
}

// running collects kubelet_running_pods, kubelet_running_containers and kubelet_node_name when
// they are asked for.
type running struct {
	pods                  *pods
	count, containers, me *prometheus.Desc
}

func newRunning(p *pods) *running {
	return &running{
		pods:       p,
		count:      prometheus.NewDesc("kubelet_running_pods", "Pods that have a running sandbox.", nil, nil),
		containers: prometheus.NewDesc("kubelet_running_containers", "Containers, by state.", []string{"container_state"}, nil),
		me:         prometheus.NewDesc("kubelet_node_name", "The node's name; the count is always 1.", []string{"node"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (r *running) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{r.count, r.containers, r.me} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (r *running) Collect(out chan<- prometheus.Metric) {
	sandboxes := 0
	states := map[runtime.State]int{runtime.Created: 0, runtime.Running: 0, runtime.Exited: 0, runtime.Unknown: 0}
	for _, v := range r.pods.loop.Snapshot() {
		have := r.pods.have(v.UID)
		if have.Sandbox != nil && have.Sandbox.Ready {
			sandboxes++
		}
		for _, c := range have.Containers {
			states[c.State]++
		}
	}
	out <- prometheus.MustNewConstMetric(r.count, prometheus.GaugeValue, float64(sandboxes))
	for state, n := range states {
		out <- prometheus.MustNewConstMetric(r.containers, prometheus.GaugeValue, float64(n), lower(state))
	}
	out <- prometheus.MustNewConstMetric(r.me, prometheus.GaugeValue, 1, r.pods.config.Node.Name)
}

// lower is a state as the CRI, and so the metric, writes it.
func lower(s runtime.State) string {
	return map[runtime.State]string{
		runtime.Created: "created", runtime.Running: "running", runtime.Exited: "exited", runtime.Unknown: "unknown",
	}[s]
}
