package podspec

import corev1 "k8s.io/api/core/v1"

// ObjectRef names a ConfigMap or Secret in a pod's namespace. Kind is in lower case, as messages
// have it.
type ObjectRef struct{ Kind, Name string }

// The kinds of objects that a pod's spec names.
const (
	ConfigMap = "configmap"
	Secret    = "secret"
)

// Objects are all ConfigMaps and Secrets that a pod's spec names.
func Objects(pod *corev1.Pod) map[ObjectRef]bool {
	r := refs{}
	for _, s := range pod.Spec.ImagePullSecrets {
		r.add(Secret, s.Name)
	}
	for i := range pod.Spec.Volumes {
		r.volume(&pod.Spec.Volumes[i])
	}
	for _, c := range Containers(pod) {
		r.container(c)
	}
	return r
}

type refs map[ObjectRef]bool

func (r refs) add(kind, name string) {
	if name != "" {
		r[ObjectRef{kind, name}] = true
	}
}

func (r refs) volume(v *corev1.Volume) {
	switch {
	case v.ConfigMap != nil:
		r.add(ConfigMap, v.ConfigMap.Name)
	case v.Secret != nil:
		r.add(Secret, v.Secret.SecretName)
	case v.Projected != nil:
		for _, s := range v.Projected.Sources {
			if s.ConfigMap != nil {
				r.add(ConfigMap, s.ConfigMap.Name)
			}
			if s.Secret != nil {
				r.add(Secret, s.Secret.Name)
			}
		}
	}
}

func (r refs) container(c *corev1.Container) {
	for _, f := range c.EnvFrom {
		if f.ConfigMapRef != nil {
			r.add(ConfigMap, f.ConfigMapRef.Name)
		}
		if f.SecretRef != nil {
			r.add(Secret, f.SecretRef.Name)
		}
	}
	for _, e := range c.Env {
		if e.ValueFrom == nil {
			continue
		}
		if s := e.ValueFrom.ConfigMapKeyRef; s != nil {
			r.add(ConfigMap, s.Name)
		}
		if s := e.ValueFrom.SecretKeyRef; s != nil {
			r.add(Secret, s.Name)
		}
	}
}
