package podsync

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
)

// announceBackOffs announces each container that began to wait for a back-off since the last step.
func (l *Loop) announceBackOffs(t step, s corev1.PodStatus) {
	pod, seen := t.want.Pod, t.worker.waiting
	for c := range podspec.Statuses(&s) {
		reason := ""
		if c.State.Waiting != nil {
			reason = c.State.Waiting.Reason
		}
		if seen[c.Name] == reason {
			continue
		}
		seen[c.Name] = reason
		switch reason {
		case "CrashLoopBackOff":
			l.config.Events.Event(podspec.ContainerReference(pod, c.Name), corev1.EventTypeWarning, "BackOff",
				fmt.Sprintf("Back-off restarting failed container %s in pod %s_%s(%s)", c.Name, pod.Name, pod.Namespace, pod.UID))
		case "ImagePullBackOff":
			l.config.Events.Event(podspec.ContainerReference(pod, c.Name), corev1.EventTypeNormal, "BackOff",
				fmt.Sprintf("Back-off pulling image %q", c.Image))
			l.config.Events.Event(podspec.ContainerReference(pod, c.Name), corev1.EventTypeWarning, "Failed", "Error: ImagePullBackOff")
		}
	}
}
