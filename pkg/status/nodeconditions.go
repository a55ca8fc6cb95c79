package status

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// nodeConditions keeps the conditions of others first and in their order. The agent's own follow,
// Ready last: a reader must never see a Ready that is newer than the pressures.
func nodeConditions(prev []corev1.NodeCondition, f Facts, now time.Time) []corev1.NodeCondition {
	own := []corev1.NodeCondition{
		pressure(corev1.NodeMemoryPressure, f.Conditions.MemoryPressure,
			[2]string{"KubeletHasInsufficientMemory", "kubelet has insufficient memory available"},
			[2]string{"KubeletHasSufficientMemory", "kubelet has sufficient memory available"}),
		pressure(corev1.NodeDiskPressure, f.Conditions.DiskPressure,
			[2]string{"KubeletHasDiskPressure", "kubelet has disk pressure"},
			[2]string{"KubeletHasNoDiskPressure", "kubelet has no disk pressure"}),
		pressure(corev1.NodePIDPressure, f.Conditions.PIDPressure,
			[2]string{"KubeletHasInsufficientPID", "kubelet has insufficient PID available"},
			[2]string{"KubeletHasSufficientPID", "kubelet has sufficient PID available"}),
		ready(f),
	}
	out := make([]corev1.NodeCondition, 0, len(prev)+len(own))
	for _, c := range prev {
		if !slices.ContainsFunc(own, func(o corev1.NodeCondition) bool { return o.Type == c.Type }) {
			out = append(out, c)
		}
	}
	for _, c := range own {
		c.LastHeartbeatTime = metav1.NewTime(now)
		c.LastTransitionTime = metav1.NewTime(now)
		i := slices.IndexFunc(prev, func(p corev1.NodeCondition) bool { return p.Type == c.Type })
		if i >= 0 && prev[i].Status == c.Status {
			c.LastTransitionTime = prev[i].LastTransitionTime
		}
		out = append(out, c)
	}
	return out
}

// pressure makes one condition whose True is bad; yes and no are reason and message.
func pressure(kind corev1.NodeConditionType, under bool, yes, no [2]string) corev1.NodeCondition {
	if under {
		return corev1.NodeCondition{Type: kind, Status: corev1.ConditionTrue, Reason: yes[0], Message: yes[1]}
	}
	return corev1.NodeCondition{Type: kind, Status: corev1.ConditionFalse, Reason: no[0], Message: no[1]}
}

func ready(f Facts) corev1.NodeCondition {
	why := notReady(f)
	switch len(why) {
	case 0:
		return corev1.NodeCondition{
			Type: corev1.NodeReady, Status: corev1.ConditionTrue,
			Reason: "KubeletReady", Message: "kubelet is posting ready status",
		}
	case 1:
		return corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionFalse, Reason: "KubeletNotReady", Message: why[0]}
	}
	return corev1.NodeCondition{
		Type: corev1.NodeReady, Status: corev1.ConditionFalse,
		Reason: "KubeletNotReady", Message: "[" + strings.Join(why, ", ") + "]",
	}
}

// notReady lists every reason, the runtime's first: the others often follow from it.
func notReady(f Facts) []string {
	var why []string
	c := f.Conditions
	if c.RuntimeError != "" {
		why = append(why, "container runtime is down: "+c.RuntimeError)
	}
	if c.NetworkError != "" {
		why = append(why, "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:"+c.NetworkError)
	}
	if c.ShuttingDown {
		why = append(why, "node is shutting down")
	}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourcePods} {
		if _, ok := f.Capacity[name]; !ok {
			why = append(why, "missing node capacity for resources: "+string(name))
		}
	}
	return append(why, c.Other...)
}
