package podplan

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
)

// reasonConfig is the reason of a start that failed for what the spec names.
const reasonConfig = "CreateContainerConfigError"

// Renew ends the back-off of whatever may have failed for want of an object that has changed,
// appeared or gone since. How often it failed still counts, should it fail again.
func (m *Memory) Renew(pod *corev1.Pod, changed []podspec.ObjectRef) {
	for name, v := range m.Volumes {
		v.Failure.At = time.Time{}
		m.Volumes[name] = v
	}
	for name, f := range m.Starts {
		if f.Reason == reasonConfig {
			f.At = time.Time{}
			m.Starts[name] = f
		}
	}
	if pod == nil || !slices.ContainsFunc(pod.Spec.ImagePullSecrets, func(r corev1.LocalObjectReference) bool {
		return slices.Contains(changed, podspec.ObjectRef{Kind: podspec.Secret, Name: r.Name})
	}) {
		return
	}
	for name, s := range m.Images {
		s.Failure.At = time.Time{}
		m.Images[name] = s
	}
}
