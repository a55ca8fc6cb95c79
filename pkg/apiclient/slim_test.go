package apiclient

import (
	"reflect"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// TestSlimObjectsMeanTheSame: no field that is dropped before an object is kept decides about a
// Service.
func TestSlimObjectsMeanTheSame(t *testing.T) {
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: "a", UID: "1", ResourceVersion: "5", CreationTimestamp: metav1.NewTime(time.Unix(1000, 0)),
			Labels: map[string]string{"app": "a"}, Annotations: map[string]string{corev1.LastAppliedConfigAnnotation: "{}"},
			ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubectl"}}, Finalizers: []string{"f"},
		},
		Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.7", Selector: map[string]string{"app": "a"}, Ports: []corev1.ServicePort{{Name: "http", Port: 80}}},
	}
	// nobody manages its slice: what this node knows of the pod does not count
	byHand := svc.DeepCopy()
	byHand.Name, byHand.Spec.ClusterIP = "b", "10.96.0.8"
	foreign := svc.DeepCopy()
	foreign.Name, foreign.Labels = "foreign", map[string]string{"service.kubernetes.io/service-proxy-name": "other"}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: "a-x", GenerateName: "a-", Labels: map[string]string{discoveryv1.LabelServiceName: "a", discoveryv1.LabelManagedBy: "endpointslice-controller.k8s.io", "app": "a"},
			Annotations:     map[string]string{corev1.EndpointsLastChangeTriggerTime: "2026-01-02T03:04:05Z", "other": "x"},
			OwnerReferences: []metav1.OwnerReference{{Name: "a"}},
		},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(8080))}},
		Endpoints: []discoveryv1.Endpoint{
			{Addresses: []string{"10.244.0.1"}, NodeName: new("me"), Zone: new("z"), Hostname: new("h"), TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: "p", UID: "7"}},
			{Addresses: []string{"10.244.0.2"}, Conditions: discoveryv1.EndpointConditions{Ready: new(false)}, Hints: &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: "z"}}}},
		},
	}
	unmanaged := slice.DeepCopy()
	unmanaged.Name, unmanaged.Labels = "b-x", map[string]string{discoveryv1.LabelServiceName: "b"}
	headless := slice.DeepCopy()
	headless.Name, headless.Labels[corev1.IsHeadlessService] = "a-y", ""
	headless.Endpoints[0].Addresses[0] = "10.244.0.3"
	node := snapshot.Node{Name: "me", Zone: "z", Unready: map[types.UID]bool{"7": true}}
	build := func() *snapshot.Snapshot {
		return snapshot.Build([]*corev1.Service{svc, byHand, foreign}, []*discoveryv1.EndpointSlice{slice, unmanaged, headless}, node, corev1.IPv4Protocol)
	}
	before := build()
	for _, o := range []any{svc, byHand, foreign, slice, unmanaged, headless} {
		if got, err := slim(o); err != nil || got != o {
			t.Fatalf("slim(%T) = %v, %v", o, got, err)
		}
	}
	if after := build(); !reflect.DeepEqual(before, after) || len(after.Services) != 2 || after.Services[0].LocalReady != 0 || after.Services[1].LocalReady != 1 {
		t.Errorf("the snapshot differs:\n%+v\n%+v", before, after)
	}
	if svc.Spec.Selector != nil || svc.ManagedFields != nil || svc.Labels != nil || svc.Annotations != nil || len(slice.Labels) != 2 || slice.OwnerReferences != nil {
		t.Errorf("kept: %+v, %+v", svc, slice)
	}
	if svc.ResourceVersion != "5" || svc.UID != "1" || slice.Name != "a-x" {
		t.Errorf("identity was dropped: %+v, %+v", svc.ObjectMeta, slice.ObjectMeta)
	}
}
