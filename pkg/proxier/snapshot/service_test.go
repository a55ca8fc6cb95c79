package snapshot_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/internal/golden"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot/snapshottest"
)

var testNode = snapshot.Node{
	Name: "me", Zone: "z1",
	Addresses: []netip.Addr{netip.MustParseAddr("192.168.77.2"), netip.MustParseAddr("fd77::2")},
	Unready:   map[types.UID]bool{"unready": true},
}

func TestSnapshot(t *testing.T) {
	golden.Run(t, "testdata/*.txtar", func(t *testing.T, files map[string][]byte) map[string][]byte {
		objects, err := snapshottest.Parse(files["in.yaml"])
		if err != nil {
			t.Fatal(err)
		}
		out := map[string][]byte{}
		for _, family := range []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol} {
			s := snapshot.Build(objects.Services, objects.Slices, testNode, family)
			if family == corev1.IPv4Protocol || len(s.Services) > 0 {
				out["want."+strings.ToLower(string(family))] = []byte(s.String())
			}
		}
		return out
	})
}

// TestBuildDoesNotDependOnOrder: whatever order the informers hand out.
func TestBuildDoesNotDependOnOrder(t *testing.T) {
	svcs, sls := many(30)
	want := snapshot.Build(svcs, sls, testNode, corev1.IPv4Protocol).String()
	for range 20 {
		rand.Shuffle(len(svcs), func(i, j int) { svcs[i], svcs[j] = svcs[j], svcs[i] })
		rand.Shuffle(len(sls), func(i, j int) { sls[i], sls[j] = sls[j], sls[i] })
		if got := snapshot.Build(svcs, sls, testNode, corev1.IPv4Protocol).String(); got != want {
			t.Fatalf("another order, another snapshot:\n%s", golden.LineDiff(want, got))
		}
	}
}

// TestBuilderIsBuildWithMemory: after any change it agrees with a fresh Build,
// and what did not change is the same pointer.
func TestBuilderIsBuildWithMemory(t *testing.T) {
	svcs, sls := many(20)
	b := snapshot.NewBuilder(corev1.IPv4Protocol, snapshot.NodePortAddresses{})
	node := testNode
	var prev *snapshot.Snapshot
	for round := range 200 {
		changed := ""
		switch i := rand.IntN(len(svcs)); rand.IntN(7) {
		case 0:
			svc := svcs[i].DeepCopy()
			svc.Spec.Ports[0].Port = int32(1 + rand.IntN(60000))
			svcs[i], changed = svc, svc.Name
		case 1:
			sl := sls[i].DeepCopy()
			sl.Endpoints[0].Addresses[0] = netip.AddrFrom4([4]byte{10, 1, 1, byte(rand.IntN(250))}).String()
			sls[i], changed = sl, sl.Labels[discoveryv1.LabelServiceName]
		case 2:
			node.Zone, changed = []string{"z1", "z2"}[rand.IntN(2)], "*"
		case 3:
			node.Unready = map[types.UID]bool{}
			if changed = "nothing"; prev != nil && len(prev.Node.Unready) == 0 {
				node.Unready[sls[i].Endpoints[1].TargetRef.UID], changed = true, svcs[i].Name
			} else if prev != nil {
				changed = "*"
			}
		case 4: // an address of the machine comes or goes
			node.Local, changed = []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(rand.IntN(250))})}, "nothing"
		}
		got := b.Build(svcs, sls, node)
		if want := snapshot.Build(svcs, sls, node, corev1.IPv4Protocol); got.String() != want.String() || !slices.Equal(got.NodePortAddresses(), node.Local) {
			t.Fatalf("round %d, node ports on %v:\n%s", round, got.NodePortAddresses(), golden.LineDiff(want.String(), got.String()))
		}
		for i := range got.Services {
			if prev != nil && changed != "*" && got.Services[i].Name != changed && got.Services[i] != prev.Services[i] {
				t.Fatalf("round %d: %s was computed again though only %q changed", round, got.Services[i].Name, changed)
			}
		}
		prev = got
	}
}

func TestProblemsOfOneObjectAreBounded(t *testing.T) {
	svcs, sls := many(1)
	for range 1000 {
		sls[0].Endpoints = append(sls[0].Endpoints, discoveryv1.Endpoint{Addresses: []string{"127.0.0.1"}})
	}
	s := snapshot.Build(svcs, sls, testNode, corev1.IPv4Protocol)
	if n := len(s.Problems); n == 0 || n > 20 {
		t.Errorf("%d problems are reported for 1000 loopback endpoints, want between 1 and 20", n)
	}
	if n := len(s.Services[0].Ports[0].Endpoints); n != 2 {
		t.Errorf("%d endpoints are left, want the 2 good ones", n)
	}
}

func BenchmarkBuildOneOf5000Changed(b *testing.B) {
	svcs, sls := many(5000)
	builder := snapshot.NewBuilder(corev1.IPv4Protocol, snapshot.NodePortAddresses{})
	builder.Build(svcs, sls, testNode)
	for b.Loop() {
		i := rand.IntN(len(sls))
		sls[i] = sls[i].DeepCopy()
		builder.Build(svcs, sls, testNode)
	}
}

// many makes n Services of one port, each with a slice of two endpoints.
func many(n int) ([]*corev1.Service, []*discoveryv1.EndpointSlice) {
	var svcs []*corev1.Service
	var sls []*discoveryv1.EndpointSlice
	at := metav1.NewTime(time.Unix(1e9, 0))
	for i := range n {
		name := "s" + string(rune('a'+i%26)) + netip.AddrFrom4([4]byte{0, 0, byte(i >> 8), byte(i)}).String()
		meta := metav1.ObjectMeta{Namespace: "ns", Name: name, CreationTimestamp: at}
		svcs = append(svcs, &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{
			ClusterIP: netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}).String(),
			Ports:     []corev1.ServicePort{{Port: 80, NodePort: int32(30000 + i%2000)}},
			Type:      corev1.ServiceTypeClusterIP,
		}})
		port := int32(8080)
		meta.Labels = map[string]string{discoveryv1.LabelServiceName: name}
		sls = append(sls, &discoveryv1.EndpointSlice{
			ObjectMeta: meta, AddressType: discoveryv1.AddressTypeIPv4,
			Ports: []discoveryv1.EndpointPort{{Port: &port}},
			Endpoints: []discoveryv1.Endpoint{
				{Addresses: []string{netip.AddrFrom4([4]byte{10, 244, byte(i >> 8), byte(i)}).String()}},
				{
					Addresses: []string{netip.AddrFrom4([4]byte{10, 245, byte(i >> 8), byte(i)}).String()},
					NodeName:  &testNode.Name, TargetRef: &corev1.ObjectReference{Kind: "Pod", UID: types.UID(name)},
				},
			},
		})
	}
	return svcs, sls
}
