package podmetrics_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nodeagent/nodeagent/pkg/podsync/podmetrics"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// TestSeries: operations have the CRI's names; only ready sandboxes count as running pods.
func TestSeries(t *testing.T) {
	registry := prometheus.NewRegistry()
	o := podmetrics.NewOperations(registry)
	o.Note("run_podsandbox", time.Second, nil)
	o.Note("run_podsandbox", time.Second, errors.New("refused"))
	o.Note("", time.Second, nil)
	registry.MustRegister(podmetrics.NewRunning("n1", func() []runtime.Pod {
		return []runtime.Pod{
			{Sandbox: &runtime.Sandbox{Ready: true}, Containers: []runtime.Container{{State: runtime.Running}, {State: runtime.Exited}}},
			{Sandbox: &runtime.Sandbox{}},
		}
	}))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for _, f := range families {
		for _, m := range f.GetMetric() {
			text.WriteString(f.GetName())
			for _, l := range m.GetLabel() {
				text.WriteString(" " + l.GetValue())
			}
			value := m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
			text.WriteString(" " + string(rune('0'+int(value))) + "\n")
		}
	}
	for _, want := range []string{
		"kubelet_runtime_operations_total run_podsandbox 2", "kubelet_runtime_operations_errors_total run_podsandbox 1",
		"kubelet_runtime_operations_duration_seconds run_podsandbox 2", "kubelet_running_pods 1",
		"kubelet_running_containers running 1", "kubelet_running_containers exited 1", "kubelet_running_containers created 0", "kubelet_node_name n1 1",
	} {
		if !strings.Contains(text.String(), want+"\n") {
			t.Errorf("no %q in:\n%s", want, text.String())
		}
	}
}
