package containerconfig_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestServicesAreWaitedFor: a pod that starts before the agent's first list of Services gets their
// variables instead of an error.
func TestServicesAreWaitedFor(t *testing.T) {
	b := newBed(t)
	b.objects.SetServices([]*corev1.Service{{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"},
		Spec:       corev1.ServiceSpec{ClusterIP: "10.96.0.7", Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}}},
	}})
	b.objects.UnreadServices(3)
	pod := podFrom(t, "metadata: {name: web-0, namespace: shop, uid: u1}\nspec:\n  containers: [{name: app, image: app}]\n")
	c, err := b.start(t, pod, "app", 0)
	must(t, err)
	for _, v := range c.Spec.Process.Env {
		if v == "WEB_SERVICE_HOST=10.96.0.7" {
			return
		}
	}
	t.Errorf("the Service is not in the environment: %q", c.Spec.Process.Env)
}
