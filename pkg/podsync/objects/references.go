package objects

import corev1 "k8s.io/api/core/v1"

// references are all ConfigMaps and Secrets that a pod's spec names.
func references(pod *corev1.Pod) map[Object]bool {
	r := refs{namespace: pod.Namespace, keys: map[Object]bool{}}
	for _, s := range pod.Spec.ImagePullSecrets {
		r.add(Secret, s.Name)
	}
	for i := range pod.Spec.Volumes {
		r.volume(&pod.Spec.Volumes[i])
	}
	for i := range pod.Spec.InitContainers {
		r.container(pod.Spec.InitContainers[i].Env, pod.Spec.InitContainers[i].EnvFrom)
	}
	for i := range pod.Spec.Containers {
		r.container(pod.Spec.Containers[i].Env, pod.Spec.Containers[i].EnvFrom)
	}
	for i := range pod.Spec.EphemeralContainers {
		r.container(pod.Spec.EphemeralContainers[i].Env, pod.Spec.EphemeralContainers[i].EnvFrom)
	}
	return r.keys
}

type refs struct {
	namespace string
	keys      map[Object]bool
}

func (r refs) add(kind, name string) {
	if name != "" {
		r.keys[Object{kind, r.namespace, name}] = true
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

func (r refs) container(env []corev1.EnvVar, from []corev1.EnvFromSource) {
	for _, f := range from {
		if f.ConfigMapRef != nil {
			r.add(ConfigMap, f.ConfigMapRef.Name)
		}
		if f.SecretRef != nil {
			r.add(Secret, f.SecretRef.Name)
		}
	}
	for _, e := range env {
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
