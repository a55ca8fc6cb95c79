package podspec

import corev1 "k8s.io/api/core/v1"

// QOS is the pod's QoS class. The class that the API server has written into the status counts,
// because the class of a pod never changes. Otherwise the spec decides: Guaranteed when CPU and
// memory of every container have limits equal to their requests, BestEffort when none requests or
// limits either, else Burstable. Resources of the pod as a whole take the place of its containers'.
// See https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/.
func QOS(pod *corev1.Pod) corev1.PodQOSClass {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass
	}
	best, guaranteed := true, true
	weigh := func(r *corev1.ResourceRequirements) {
		best = best && !hasCompute(r.Requests) && !hasCompute(r.Limits)
		guaranteed = guaranteed && isGuaranteed(r)
	}
	if r := pod.Spec.Resources; r != nil && (hasCompute(r.Requests) || hasCompute(r.Limits)) {
		weigh(r)
	} else {
		for role, c := range Containers(pod) {
			if role != Ephemeral { // they have no resources
				weigh(&c.Resources)
			}
		}
	}
	switch {
	case best:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}

func hasCompute(list corev1.ResourceList) bool {
	return !list.Cpu().IsZero() || !list.Memory().IsZero()
}

// isGuaranteed takes a missing request for the limit, as the API server fills it in.
func isGuaranteed(r *corev1.ResourceRequirements) bool {
	for _, name := range ResizableNames() {
		limit := r.Limits[name]
		request, requested := r.Requests[name]
		if limit.IsZero() || requested && request.Cmp(limit) != 0 {
			return false
		}
	}
	return true
}
