// Package podspec is PURE: the nouns that every part of the pods half shares. It answers what a pod
// says about itself: its containers and their roles, its QoS class, the resources it may change,
// the objects that it names. It also holds the words in which parts tell each other about a pod: an
// Update of a source, a probe's result, an error with kubelet's reason, the Termination of a whole
// pod. It reads its arguments only, writes none of them, and imports no other package of the
// product, so that edges and loops can use it without knowing each other.
package podspec

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Key names a pod in logs and messages: namespace/name.
func Key(pod *corev1.Pod) string { return pod.Namespace + "/" + pod.Name }

// Reference names a pod as the object of an event.
func Reference(pod *corev1.Pod) *corev1.ObjectReference {
	return &corev1.ObjectReference{
		Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
	}
}

// ContainerReference names one container of a pod as the object of an event. kubectl prints its
// path: spec.containers{app}.
func ContainerReference(pod *corev1.Pod, name string) *corev1.ObjectReference {
	ref := Reference(pod)
	switch _, role := Find(pod, name); role {
	case Init, Sidecar:
		ref.FieldPath = "spec.initContainers{" + name + "}"
	case Ephemeral:
		ref.FieldPath = "spec.ephemeralContainers{" + name + "}"
	case App:
		ref.FieldPath = "spec.containers{" + name + "}"
	default: // the spec no longer has it
		ref.FieldPath = "spec.containers{" + name + "}"
	}
	return ref
}

// Terminal reports whether a pod in this phase has ended for good.
func Terminal(p corev1.PodPhase) bool { return p == corev1.PodSucceeded || p == corev1.PodFailed }

// Update is the newest state of one pod that a source knows. Nobody writes to its objects.
type Update struct {
	UID types.UID
	// Pod is never nil; when Gone, it is the last one that the source knew.
	Pod *corev1.Pod
	// Gone says that the source no longer has the pod.
	Gone bool
	// Static says that the pod is defined on this node.
	Static bool
	// Mirror is the API object that shows a static pod; nil while there is none.
	Mirror *corev1.Pod
}

// Object is the API object that the pod's status is written to; nil when there is none.
func (u Update) Object() *corev1.Pod {
	switch {
	case u.Static:
		return u.Mirror
	case u.Gone:
		return nil
	}
	return u.Pod
}
