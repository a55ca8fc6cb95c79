package podsync

import (
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/podplan"
)

// containerRef names one container of a pod in an event, as kubectl prints it:
// spec.containers{app}.
func containerRef(pod *corev1.Pod, name string) *corev1.ObjectReference {
	path := "spec.containers{" + name + "}"
	switch {
	case slices.ContainsFunc(pod.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == name }):
		path = "spec.initContainers{" + name + "}"
	case slices.ContainsFunc(pod.Spec.EphemeralContainers, func(c corev1.EphemeralContainer) bool { return c.Name == name }):
		path = "spec.ephemeralContainers{" + name + "}"
	}
	ref := podRef(pod)
	ref.FieldPath = path
	return ref
}

func podRef(pod *corev1.Pod) *corev1.ObjectReference {
	return &corev1.ObjectReference{
		Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
	}
}

// findContainer returns a container of the pod by name, ephemeral ones as if they were usual; nil
// if there is none.
func findContainer(pod *corev1.Pod, name string) *corev1.Container {
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if c := &pod.Spec.EphemeralContainers[i]; c.Name == name {
			return (*corev1.Container)(&c.EphemeralContainerCommon)
		}
	}
	return nil
}

// announceBackOffs tells of each container that has come to wait for a back-off since the last
// turn.
func (l *Loop) announceBackOffs(t turn, s corev1.PodStatus) {
	pod, seen := t.want.Pod, t.work.waiting
	for _, list := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for _, c := range list {
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
				l.config.Events.Event(containerRef(pod, c.Name), corev1.EventTypeWarning, "BackOff",
					fmt.Sprintf("Back-off restarting failed container %s in pod %s_%s(%s)", c.Name, pod.Name, pod.Namespace, pod.UID))
			case "ImagePullBackOff":
				l.config.Events.Event(containerRef(pod, c.Name), corev1.EventTypeNormal, "BackOff",
					fmt.Sprintf("Back-off pulling image %q", c.Image))
				l.config.Events.Event(containerRef(pod, c.Name), corev1.EventTypeWarning, "Failed", "Error: ImagePullBackOff")
			}
		}
	}
}

// reasonOf is the kubelet reason of an error, or fallback.
func reasonOf(err error, fallback string) string {
	var r *podplan.ReasonError
	if errors.As(err, &r) {
		return r.Reason
	}
	return fallback
}

// withReason gives an error a kubelet reason, unless it has one.
func withReason(reason string, err error) error {
	if err == nil || reasonOf(err, "") != "" {
		return err
	}
	return &podplan.ReasonError{Reason: reason, Err: err}
}
