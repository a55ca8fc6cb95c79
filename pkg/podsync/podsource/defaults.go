package podsource

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
)

// Default sets in a pod from a file what the API server sets in every pod that it stores (the
// defaulting of core/v1 in 1.36), so that no other package has to tell static pods from others.
func Default(pod *corev1.Pod) {
	s := &pod.Spec
	def(&s.RestartPolicy, corev1.RestartPolicyAlways)
	def(&s.DNSPolicy, corev1.DNSClusterFirst)
	def(&s.SchedulerName, corev1.DefaultSchedulerName)
	defPtr(&s.TerminationGracePeriodSeconds, int64(corev1.DefaultTerminationGracePeriodSeconds))
	defPtr(&s.EnableServiceLinks, corev1.DefaultEnableServiceLinks)
	if s.SecurityContext == nil {
		s.SecurityContext = &corev1.PodSecurityContext{}
	}
	for _, c := range podspec.Containers(pod) {
		defaultContainer(c, s.HostNetwork)
	}
	for i := range s.Volumes {
		defaultVolume(&s.Volumes[i])
	}
}

func def[T ~string | ~int32](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func defPtr[T any](field **T, value T) {
	if *field == nil {
		*field = ptr.To(value)
	}
}

func defaultContainer(c *corev1.Container, hostNetwork bool) {
	def(&c.ImagePullPolicy, defaultPullPolicy(c.Image))
	def(&c.TerminationMessagePath, corev1.TerminationMessagePathDefault)
	def(&c.TerminationMessagePolicy, corev1.TerminationMessageReadFile)
	for i := range c.Ports {
		def(&c.Ports[i].Protocol, corev1.ProtocolTCP)
		if hostNetwork {
			def(&c.Ports[i].HostPort, c.Ports[i].ContainerPort)
		}
	}
	for i := range c.Env {
		if from := c.Env[i].ValueFrom; from != nil && from.FieldRef != nil {
			def(&from.FieldRef.APIVersion, "v1")
		}
	}
	for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		if p != nil {
			defaultProbe(p)
		}
	}
	if c.Lifecycle != nil {
		for _, h := range []*corev1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
			if h != nil && h.HTTPGet != nil {
				defaultHTTPGet(h.HTTPGet)
			}
		}
	}
	for name, quantity := range c.Resources.Limits {
		if c.Resources.Requests == nil {
			c.Resources.Requests = corev1.ResourceList{}
		}
		if _, set := c.Resources.Requests[name]; !set {
			c.Resources.Requests[name] = quantity.DeepCopy()
		}
	}
	roundUp(c.Resources.Limits)
	roundUp(c.Resources.Requests)
}

// roundUp rounds quantities finer than a thousandth up to the next thousandth.
func roundUp(list corev1.ResourceList) {
	for name, quantity := range list {
		q := quantity.DeepCopy()
		q.RoundUp(resource.Milli)
		list[name] = q
	}
}

// defaultPullPolicy is Always for an image that has the tag latest, or neither tag nor digest.
func defaultPullPolicy(image string) corev1.PullPolicy {
	if strings.Contains(image, "@") {
		return corev1.PullIfNotPresent
	}
	last := image[strings.LastIndex(image, "/")+1:]
	if _, tag, tagged := strings.Cut(last, ":"); tagged && tag != "latest" {
		return corev1.PullIfNotPresent
	}
	return corev1.PullAlways
}

func defaultProbe(p *corev1.Probe) {
	def(&p.TimeoutSeconds, 1)
	def(&p.PeriodSeconds, 10)
	def(&p.SuccessThreshold, 1)
	def(&p.FailureThreshold, 3)
	if p.HTTPGet != nil {
		defaultHTTPGet(p.HTTPGet)
	}
	if p.GRPC != nil && p.GRPC.Service == nil {
		p.GRPC.Service = ptr.To("")
	}
}

func defaultHTTPGet(h *corev1.HTTPGetAction) {
	def(&h.Path, "/")
	def(&h.Scheme, corev1.URISchemeHTTP)
}

func defaultVolume(v *corev1.Volume) {
	switch {
	case v.Secret != nil:
		defPtr(&v.Secret.DefaultMode, corev1.SecretVolumeSourceDefaultMode)
	case v.ConfigMap != nil:
		defPtr(&v.ConfigMap.DefaultMode, corev1.ConfigMapVolumeSourceDefaultMode)
	case v.DownwardAPI != nil:
		defPtr(&v.DownwardAPI.DefaultMode, corev1.DownwardAPIVolumeSourceDefaultMode)
		defaultFields(v.DownwardAPI.Items)
	case v.Projected != nil:
		defPtr(&v.Projected.DefaultMode, corev1.ProjectedVolumeSourceDefaultMode)
		for i := range v.Projected.Sources {
			if d := v.Projected.Sources[i].DownwardAPI; d != nil {
				defaultFields(d.Items)
			}
			if t := v.Projected.Sources[i].ServiceAccountToken; t != nil {
				defPtr(&t.ExpirationSeconds, 3600)
			}
		}
	case v.HostPath != nil:
		defPtr(&v.HostPath.Type, corev1.HostPathUnset)
	case v.Image != nil:
		def(&v.Image.PullPolicy, defaultPullPolicy(v.Image.Reference))
	case v.VolumeSource == corev1.VolumeSource{}:
		v.EmptyDir = &corev1.EmptyDirVolumeSource{}
	}
}

func defaultFields(items []corev1.DownwardAPIVolumeFile) {
	for i := range items {
		if items[i].FieldRef != nil {
			def(&items[i].FieldRef.APIVersion, "v1")
		}
	}
}
