package apiclient

import (
	"maps"
	"slices"
	"unique"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// slim drops the fields that nobody in the agent reads, which is most of many objects.
func slim(o any) (any, error) {
	m, err := meta.Accessor(o)
	if err != nil {
		return o, nil //nolint:nilerr // a tombstone stays as it is
	}
	m.SetManagedFields(nil)
	switch t := o.(type) {
	case *corev1.Service:
		slimMeta(&t.ObjectMeta)
		slimSpec(&t.Spec)
		t.Status.Conditions = nil
	case *discoveryv1.EndpointSlice:
		slimMeta(&t.ObjectMeta)
		t.UID, t.AddressType = "", shared(t.AddressType)
		for i := range t.Ports {
			share(t.Ports[i].Name)
			share(t.Ports[i].Protocol)
		}
		for i := range t.Endpoints {
			slimEndpoint(&t.Endpoints[i])
		}
	case *corev1.Node:
		t.Status.Images = nil
	}
	return o, nil
}

// slimMeta keeps the labels and annotations that the services half reads, and stores strings that
// many objects have in common once.
func slimMeta(m *metav1.ObjectMeta) {
	m.OwnerReferences, m.Finalizers, m.GenerateName = nil, nil, ""
	m.Namespace = shared(m.Namespace)
	m.Labels = only(m.Labels, discoveryv1.LabelServiceName, discoveryv1.LabelManagedBy, corev1.IsHeadlessService, "service.kubernetes.io/service-proxy-name")
	if by, ok := m.Labels[discoveryv1.LabelManagedBy]; ok {
		m.Labels[discoveryv1.LabelManagedBy] = shared(by)
	}
	m.Annotations = only(m.Annotations, corev1.EndpointsLastChangeTriggerTime)
}

// slimSpec drops the selector, which only the control plane uses.
func slimSpec(s *corev1.ServiceSpec) {
	s.Selector = nil
	s.Type, s.SessionAffinity = shared(s.Type), shared(s.SessionAffinity)
	share(s.IPFamilyPolicy)
	share(s.InternalTrafficPolicy)
	for i := range s.IPFamilies {
		s.IPFamilies[i] = shared(s.IPFamilies[i])
	}
	for i := range s.Ports {
		s.Ports[i].Name, s.Ports[i].Protocol = shared(s.Ports[i].Name), shared(s.Ports[i].Protocol)
	}
	if len(s.ClusterIPs) > 0 && s.ClusterIPs[0] == s.ClusterIP {
		s.ClusterIPs[0] = s.ClusterIP
	}
}

// slimEndpoint keeps the pod's UID of its reference.
func slimEndpoint(e *discoveryv1.Endpoint) {
	e.DeprecatedTopology, e.Hostname = nil, nil
	share(e.NodeName)
	share(e.Zone)
	if e.TargetRef != nil {
		*e.TargetRef = corev1.ObjectReference{Kind: shared(e.TargetRef.Kind), UID: e.TargetRef.UID}
	}
}

// only keeps these keys of a map; it returns nil when none remains.
func only(all map[string]string, keys ...string) map[string]string {
	maps.DeleteFunc(all, func(key, _ string) bool { return !slices.Contains(keys, key) })
	if len(all) == 0 {
		return nil
	}
	return all
}

// shared returns an equal string whose bytes are stored once in the process.
func shared[T ~string](text T) T { return unique.Make(text).Value() }

// share is shared for an optional string.
func share[T ~string](text *T) {
	if text != nil {
		*text = shared(*text)
	}
}
