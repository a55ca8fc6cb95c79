package containerconfig

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/runtime/ocispec"
)

// seLinuxOptions are those that a container asks for, or its pod; nil for none. c may be nil.
func seLinuxOptions(pod *corev1.Pod, c *corev1.Container) *corev1.SELinuxOptions {
	if c != nil && c.SecurityContext != nil && c.SecurityContext.SELinuxOptions != nil {
		return c.SecurityContext.SELinuxOptions
	}
	if pod.Spec.SecurityContext != nil {
		return pod.Spec.SecurityContext.SELinuxOptions
	}
	return nil
}

// warnOfSELinux tells the owner of a pod that asks for labels on a machine without them. The pod
// runs, as under kubelet.
func (b *Builder) warnOfSELinux(pod *corev1.Pod) {
	if b.config.Warn == nil || b.hasSELinux() {
		return
	}
	asks := seLinuxOptions(pod, nil) != nil
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			asks = asks || seLinuxOptions(pod, &list[i]) != nil
		}
	}
	if asks {
		b.config.Warn(pod, "SELinuxNotEnabled", "seLinuxOptions have no effect: SELinux is not enabled on this node")
	}
}

func (b *Builder) hasSELinux() bool { return b.config.SELinux != nil && b.config.SELinux.Enabled() }

// labels are the container's: the pod's, unless there are options for it.
func (w work) labels() (runtime.SELinuxLabels, error) {
	pod := w.request.Have.Sandbox.SELinux
	o := seLinuxOptions(w.pod, w.container)
	if o == nil || !w.hasSELinux() {
		return pod, nil
	}
	labels, err := w.config.SELinux.Of(runtime.SELinuxOptions{User: o.User, Role: o.Role, Type: o.Type, Level: o.Level}, pod)
	if err != nil {
		return labels, fmt.Errorf("labelling container %q: %w", w.container.Name, err)
	}
	return labels, nil
}

// relabel gives the container's label to the files of the node's own making that it gets: volumes
// with the pod's data, and what is managed for the pod. What is the machine's or of a storage
// system (hostPath, nfs, persistent volumes) keeps its own.
func (w work) relabel(mounts []ocispec.Mount, label string) error {
	if label == "" || !w.hasSELinux() {
		return nil
	}
	for i, m := range mounts {
		if i < len(w.container.VolumeMounts) && !isPodsOwn(w.pod, w.container.VolumeMounts[i].Name) || m.Source == hostShm {
			continue
		}
		if err := w.config.SELinux.Relabel(m.Source, label); err != nil {
			return err
		}
	}
	return nil
}

// isPodsOwn says that a volume is made for the pod and goes with it.
func isPodsOwn(pod *corev1.Pod, name string) bool {
	for _, v := range pod.Spec.Volumes {
		if v.Name == name {
			return v.EmptyDir != nil || v.ConfigMap != nil || v.Secret != nil || v.DownwardAPI != nil || v.Projected != nil
		}
	}
	return false
}
