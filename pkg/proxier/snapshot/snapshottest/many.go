package snapshottest

import (
	"net/netip"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// Many is a snapshot of n Services of IPv4 with an endpoint each.
func Many(n int) *snapshot.Snapshot {
	var svcs []*corev1.Service
	var sls []*discoveryv1.EndpointSlice
	for i := range n {
		meta := metav1.ObjectMeta{Namespace: "ns", Name: "s" + strconv.Itoa(i), Labels: map[string]string{discoveryv1.LabelServiceName: "s" + strconv.Itoa(i)}}
		svcs = append(svcs, &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{
			ClusterIP: netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}).String(), Ports: []corev1.ServicePort{{Port: 80}},
		}})
		port := int32(8080)
		sls = append(sls, &discoveryv1.EndpointSlice{
			ObjectMeta: meta, AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Port: &port}},
			Endpoints: []discoveryv1.Endpoint{{Addresses: []string{netip.AddrFrom4([4]byte{10, 244, byte(i >> 8), byte(i)}).String()}}},
		})
	}
	return snapshot.Build(svcs, sls, snapshot.Node{Name: "me"}, corev1.IPv4Protocol)
}

// Node is the node of the tests.
func Node() snapshot.Node {
	return snapshot.Node{
		Name: "me", Zone: "z1", Addresses: []netip.Addr{netip.MustParseAddr("192.168.77.2"), netip.MustParseAddr("fd77::2")},
		PodCIDRs: []netip.Prefix{netip.MustParsePrefix("fd00:244:1::/64"), netip.MustParsePrefix("10.244.1.0/24")},
	}
}
