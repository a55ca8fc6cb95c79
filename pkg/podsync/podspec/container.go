package podspec

import (
	"crypto/sha256"
	"encoding/hex"
	"iter"

	corev1 "k8s.io/api/core/v1"
)

// Role is what a container is in its pod.
type Role string

// The roles. A Sidecar is an init container with restart policy Always: it runs beside the
// containers that follow it.
const (
	Init      Role = "Init"
	Sidecar   Role = "Sidecar"
	App       Role = "App"
	Ephemeral Role = "Ephemeral"
)

// Serves reports whether containers of this role run as long as their pod does, so that they have
// probes and ports: sidecars and app containers.
func (r Role) Serves() bool { return r == Sidecar || r == App }

// Containers yields every container of a pod with its role: init containers and sidecars, then app
// containers, then ephemeral ones, each in the order of the spec. Of an ephemeral container it
// yields the part that all containers have in common.
func Containers(pod *corev1.Pod) iter.Seq2[Role, *corev1.Container] {
	return func(yield func(Role, *corev1.Container) bool) {
		for i := range pod.Spec.InitContainers {
			if c := &pod.Spec.InitContainers[i]; !yield(initRole(c), c) {
				return
			}
		}
		for i := range pod.Spec.Containers {
			if !yield(App, &pod.Spec.Containers[i]) {
				return
			}
		}
		for i := range pod.Spec.EphemeralContainers {
			if !yield(Ephemeral, (*corev1.Container)(&pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)) {
				return
			}
		}
	}
}

func initRole(c *corev1.Container) Role {
	if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
		return Sidecar
	}
	return Init
}

// Find returns the container of that name and its role; nil and "" when the pod has none.
func Find(pod *corev1.Pod, name string) (*corev1.Container, Role) {
	for role, c := range Containers(pod) {
		if c.Name == name {
			return c, role
		}
	}
	return nil, ""
}

// Target is the container whose processes an ephemeral container sees; "" for none, and for every
// other container.
func Target(pod *corev1.Pod, name string) string {
	for i := range pod.Spec.EphemeralContainers {
		if c := &pod.Spec.EphemeralContainers[i]; c.Name == name {
			return c.TargetContainerName
		}
	}
	return ""
}

// Statuses yields the status of every container that s has one of, in the order of Containers.
func Statuses(s *corev1.PodStatus) iter.Seq[*corev1.ContainerStatus] {
	return func(yield func(*corev1.ContainerStatus) bool) {
		for _, list := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
			for i := range list {
				if !yield(&list[i]) {
					return
				}
			}
		}
	}
}

// Status returns the status of the container of that name; nil when s has none.
func Status(s *corev1.PodStatus, name string) *corev1.ContainerStatus {
	for c := range Statuses(s) {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// StatusID is a container's id as a pod's status writes it.
func StatusID(id string) string { return "containerd://" + id }

// SpecHash tells whether a running container still matches its spec. It covers what the API lets
// change and no running container can follow: the image. (Resources change in place.) Container
// records keep the hash: another formula restarts every container of every node that is upgraded.
func SpecHash(c *corev1.Container) string {
	sum := sha256.Sum256([]byte(c.Name + "\x00" + c.Image))
	return hex.EncodeToString(sum[:8])
}
