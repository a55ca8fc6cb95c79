package containerconfig

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/runtime/ocispec"
)

// warnOfSELinux warns about a pod that asks for labels on a machine without SELinux. The pod runs,
// as under kubelet.
func (b *Builder) warnOfSELinux(pod *corev1.Pod) {
	if b.config.Warn == nil || b.hasSELinux() {
		return
	}
	asks := ocispec.SELinuxOptions(pod, nil) != nil
	for _, c := range podspec.Containers(pod) {
		asks = asks || ocispec.SELinuxOptions(pod, c) != nil
	}
	if asks {
		b.config.Warn(pod, "SELinuxNotEnabled", "seLinuxOptions have no effect: SELinux is not enabled on this node")
	}
}

func (b *Builder) hasSELinux() bool { return b.config.SELinux != nil && b.config.SELinux.Enabled() }

// labels returns the container's labels: the pod's, unless the container has its own options.
func (w work) labels() (runtime.SELinuxLabels, error) {
	pod := w.request.Runtime.Sandbox.SELinux
	o := ocispec.SELinuxOptions(w.pod, w.container)
	if o == nil || !w.hasSELinux() {
		return pod, nil
	}
	labels, err := w.config.SELinux.Of(runtime.SELinuxOptions{User: o.User, Role: o.Role, Type: o.Type, Level: o.Level}, pod)
	if err != nil {
		return labels, fmt.Errorf("labelling container %q: %w", w.container.Name, err)
	}
	return labels, nil
}

// relabel sets the container's label on the files that the node made for it: volumes with the pod's
// data, and managed files. Files of the machine or of a storage system (hostPath, nfs, persistent
// volumes) keep their labels.
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

// isPodsOwn reports whether the volume is created for the pod and removed with it.
func isPodsOwn(pod *corev1.Pod, name string) bool {
	for _, v := range pod.Spec.Volumes {
		if v.Name == name {
			return v.EmptyDir != nil || v.ConfigMap != nil || v.Secret != nil || v.DownwardAPI != nil || v.Projected != nil
		}
	}
	return false
}
