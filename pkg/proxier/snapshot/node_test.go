package snapshot_test

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// TestNodeOf: a cloud's external address, which is often listed first, is not the primary one.
func TestNodeOf(t *testing.T) {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "me", Labels: map[string]string{corev1.LabelTopologyZone: "z1"}}}
	n.Spec.PodCIDRs = []string{"010.244.1.0/24", "fd00:244:1::/64", "nonsense"}
	n.Status.Addresses = []corev1.NodeAddress{
		{Type: corev1.NodeHostName, Address: "192.0.2.99"}, // a host may be called so
		{Type: corev1.NodeExternalIP, Address: "198.51.100.7"},
		{Type: corev1.NodeInternalIP, Address: "10.0.0.7"},
		{Type: corev1.NodeInternalIP, Address: "fd00::7"},
	}
	got := snapshot.NodeOf(n)
	want := "{Name:me Zone:z1 Addresses:[10.0.0.7 fd00::7 198.51.100.7] Local:[] PodCIDRs:[10.244.1.0/24 fd00:244:1::/64] Unready:map[]}"
	if fmt.Sprintf("%+v", got) != want {
		t.Errorf("got  %+v\nwant %s", got, want)
	}
	if a, b := got.Primary(corev1.IPv4Protocol), got.PodCIDR(corev1.IPv6Protocol); a.String() != "10.0.0.7" || b.String() != "fd00:244:1::/64" {
		t.Errorf("primary %s, pod range %s", a, b)
	}
	if none := (snapshot.Node{}); none.Primary(corev1.IPv4Protocol).IsValid() || none.PodCIDR(corev1.IPv4Protocol).IsValid() {
		t.Error("a node without addresses has one")
	}
}

func TestEligible(t *testing.T) {
	tainted, deleted := &corev1.Node{}, &corev1.Node{}
	tainted.Spec.Taints = []corev1.Taint{{Key: "ToBeDeletedByClusterAutoscaler"}}
	now := metav1.NewTime(time.Unix(1, 0))
	deleted.DeletionTimestamp = &now
	if !snapshot.Eligible(&corev1.Node{}) || snapshot.Eligible(tainted) || snapshot.Eligible(deleted) {
		t.Error("a node that is to go, and no other, is not eligible")
	}
}
