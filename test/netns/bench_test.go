package netns

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeagent/nodeagent/pkg/proxier"
	"github.com/nodeagent/nodeagent/pkg/proxier/proxiertest"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// many makes n Services with two endpoints each.
func many(n int) ([]*corev1.Service, []*discoveryv1.EndpointSlice) {
	var svcs []*corev1.Service
	var sls []*discoveryv1.EndpointSlice
	for i := range n {
		name := fmt.Sprintf("service-%05d", i)
		svcs = append(svcs, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.ServiceSpec{
			ClusterIP: netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}).String(), Ports: []corev1.ServicePort{{Name: "http", Port: 80}},
		}})
		port, portName := int32(8080), "http"
		sls = append(sls, &discoveryv1.EndpointSlice{
			AddressType: discoveryv1.AddressTypeIPv4,
			ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
			Ports:       []discoveryv1.EndpointPort{{Name: &portName, Port: &port}},
			Endpoints: []discoveryv1.Endpoint{
				{Addresses: []string{netip.AddrFrom4([4]byte{10, 244, byte(i >> 8), byte(i)}).String()}},
				{Addresses: []string{netip.AddrFrom4([4]byte{10, 245, byte(i >> 8), byte(i)}).String()}},
			},
		})
	}
	return svcs, sls
}

// BenchmarkSync measures whole rounds, build to kernel: the first sync, one
// endpoint that changes, one Service that comes and goes, and the drift check.
func BenchmarkSync(b *testing.B) {
	f := corev1.IPv4Protocol
	for _, variant := range []string{"nft", "legacy"} {
		for _, n := range []int{1000, 5000} {
			b.Run(fmt.Sprintf("%s/%d", variant, n), func(b *testing.B) {
				needRoot(b)
				useVariant(b, variant)
				benchmarkSync(b, newBackend(b, newNS(b), f, nil), n)
			})
		}
	}
	for _, n := range []int{1000, 5000, 10000} {
		b.Run(fmt.Sprintf("nftables/%d", n), func(b *testing.B) {
			needRoot(b)
			benchmarkSync(b, newNFTables(b, newNS(b), nftOptions(f), nil), n)
		})
	}
}

func benchmarkSync(b *testing.B, backend proxier.Backend, n int) {
	svcs, sls := many(n)
	builder := snapshot.NewBuilder(corev1.IPv4Protocol, snapshot.NodePortAddresses{})
	sync := func(svcs []*corev1.Service) time.Duration {
		begin := time.Now()
		if err := backend.Sync(b.Context(), builder.Build(svcs, sls, proxiertest.NodeView())); err != nil {
			b.Fatal(err)
		}
		return time.Since(begin)
	}
	first := sync(svcs)
	var endpoint, add, check time.Duration
	rounds := 0
	for b.Loop() {
		i := rounds % n
		sls[i] = sls[i].DeepCopy()
		sls[i].Endpoints[0].Addresses[0] = netip.AddrFrom4([4]byte{10, 246, byte(rounds >> 8), byte(rounds)}).String()
		endpoint += sync(svcs)
		add += sync(svcs[:n-1]) + sync(svcs)
		begin := time.Now()
		if drift, err := backend.Check(b.Context()); err != nil || drift != nil {
			b.Fatal(drift, err)
		}
		check += time.Since(begin)
		rounds++
	}
	ms := func(d time.Duration, per int) float64 { return float64(d.Microseconds()) / 1000 / float64(per) }
	b.ReportMetric(ms(first, 1), "first-ms")
	b.ReportMetric(ms(endpoint, rounds), "endpoint-ms")
	b.ReportMetric(ms(add, 2*rounds), "service-ms")
	b.ReportMetric(ms(check, rounds), "check-ms")
}
