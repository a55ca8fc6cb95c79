package proxiertest

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeagent/nodeagent/pkg/proxier"
	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// Run runs the suite for both families. Scenarios run in random order on one backend:
// the state of each is the past of the next.
func Run(t *testing.T, h Harness) {
	if h.Tries == 0 {
		h.Tries = 40
	}
	for _, f := range []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol} {
		t.Run(string(f), func(t *testing.T) { runFamily(t, h, f) })
	}
}

func runFamily(t *testing.T, h Harness, f corev1.IPFamily) {
	backend, world := h.New(t, f)
	list := append(clusterIPScenarios(), externalScenarios()...)
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	for _, s := range list {
		t.Run(strings.ReplaceAll(s.name, " ", "-"), func(t *testing.T) {
			Sync(t, backend, s.snapshot(f))
			again(t, "Check", func() error {
				drift, err := backend.Check(t.Context())
				if err == nil && len(drift) > 0 {
					t.Errorf("drift of rules that nobody has changed: %v", drift)
				}
				return err
			})
			for _, c := range s.checks {
				if c.only == "" || c.only == f {
					c.run(t, h, world, f)
				}
			}
		})
	}
	t.Run("nothing-is-left-of-a-deleted-Service", func(t *testing.T) {
		Sync(t, backend, snapshot.Build(nil, nil, NodeView(), f))
		if got := world.Connect(t, Pod1, tcp, toVIP(f)); got.Verdict == Landed {
			t.Errorf("the cluster IP of a Service that is gone lands on %s", got.At)
		}
	})
	t.Run("cleanup", func(t *testing.T) { cleanup(t, h, backend, world, f) })
}

// cleanup cleans up from any state, twice, and syncs again.
func cleanup(t *testing.T, h Harness, backend proxier.Backend, world World, f corev1.IPFamily) {
	one := scenario{eps: ready(Pod1)}
	Sync(t, backend, one.snapshot(f))
	for range 2 {
		again(t, "Cleanup", func() error { return backend.Cleanup(t.Context()) })
	}
	if got := world.Connect(t, Pod2, tcp, toVIP(f)); got.Verdict == Landed {
		t.Errorf("after Cleanup the cluster IP lands on %s", got.At)
	}
	Sync(t, backend, one.snapshot(f))
	where(Pod2, toVIP, false, Pod1).run(t, h, world, f)
}

// Sync calls the backend until it succeeds, as the loop does.
func Sync(t testing.TB, b proxier.Backend, s *snapshot.Snapshot) {
	t.Helper()
	again(t, "Sync", func() error { return b.Sync(t.Context(), s) })
}

func again(t testing.TB, what string, f func() error) {
	t.Helper()
	var err error
	for range 30 {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatalf("%s fails 30 times in a row: %v", what, err)
}

// anySource is c with any source: the node's own processes have several addresses.
func (c check) anySource() check {
	c.sourceFree = true
	return c
}

func (c check) in(f corev1.IPFamily) check {
	c.only = f
	return c
}

// connect tries again if a connection that should not be dropped seems to be: a busy
// machine is slow to answer. A real drop is still seen in the end.
func (c check) connect(t *testing.T, w World, f corev1.IPFamily) Result {
	t.Helper()
	got := w.Connect(t, c.from, c.protocol, c.to(f))
	for i := 0; i < 5 && got.Verdict == Dropped && c.verdict != Dropped; i++ {
		got = w.Connect(t, c.from, c.protocol, c.to(f))
	}
	return got
}

func (c check) run(t *testing.T, h Harness, w World, f corev1.IPFamily) {
	t.Helper()
	what := fmt.Sprintf("from %s to %s %s", c.from, c.protocol, c.to(f))
	if c.lands == nil {
		if got := c.connect(t, w, f); got.Verdict != c.verdict {
			t.Errorf("%s: %s at %s, want %s", what, got.Verdict, got.At, c.verdict)
		}
		return
	}
	seen := map[netip.AddrPort]bool{}
	for range h.Tries {
		got := c.connect(t, w, f)
		if got.Verdict != Landed {
			t.Errorf("%s: %s, want it to land on %v", what, got.Verdict, c.lands)
			return
		}
		seen[got.At] = true
		c.checkSource(t, what, got, f)
	}
	c.checkPlaces(t, what, seen, f)
}

func (c check) checkPlaces(t *testing.T, what string, seen map[netip.AddrPort]bool, f corev1.IPFamily) {
	t.Helper()
	port := uint16(TCPPort)
	if c.protocol == udp {
		port = UDPPort
	}
	var want, got []string
	for _, p := range c.lands {
		want = append(want, netip.AddrPortFrom(Address(p, f), port).String())
	}
	for at := range seen {
		got = append(got, at.String())
	}
	slices.Sort(want)
	slices.Sort(got)
	if c.sticky {
		if len(got) != 1 || !slices.Contains(want, got[0]) {
			t.Errorf("%s lands on %v, want always the same one of %v", what, got, want)
		}
		return
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s lands on %v, want %v", what, got, want)
	}
}

// checkSource checks whether the endpoint sees the caller's address: if masqueraded, it does not.
func (c check) checkSource(t *testing.T, what string, got Result, f corev1.IPFamily) {
	t.Helper()
	if c.sourceFree || c.sticky {
		return
	}
	caller := Address(c.from, f)
	hairpin := got.At.Addr() == caller
	if masq := got.Source != caller; masq != (c.masq || hairpin) {
		t.Errorf("%s: the endpoint at %s sees %s, want masqueraded: %v", what, got.At, got.Source, c.masq || hairpin)
	}
}

// ep is one endpoint of a scenario.
type ep struct {
	at                          Place
	ready, serving, terminating bool
	zone                        string
}

func ready(places ...Place) []ep {
	var out []ep
	for _, p := range places {
		out = append(out, ep{at: p, ready: true, serving: true})
	}
	return out
}

// snapshot builds the snapshot of the scenario's API objects.
func (s scenario) snapshot(f corev1.IPFamily) *snapshot.Snapshot {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "test", Name: "svc"}}
	svc.Spec = corev1.ServiceSpec{
		Type: corev1.ServiceTypeClusterIP, ClusterIP: vip(f).String(), ClusterIPs: []string{vip(f).String()},
		Ports: []corev1.ServicePort{{Name: "http", Port: clusterPort, Protocol: tcp}, {Name: "dns", Port: 53, Protocol: udp}},
	}
	if s.svc != nil {
		s.svc(svc)
	}
	svc.Spec.ExternalIPs = ofFamily(svc.Spec.ExternalIPs, f)
	http, dns, httpPort, dnsPort, t, u := "http", "dns", int32(TCPPort), int32(UDPPort), tcp, udp
	slice := &discoveryv1.EndpointSlice{
		AddressType: discoveryv1.AddressType(f),
		ObjectMeta:  metav1.ObjectMeta{Namespace: "test", Name: "svc-1", Labels: map[string]string{discoveryv1.LabelServiceName: "svc"}},
		Ports:       []discoveryv1.EndpointPort{{Name: &http, Port: &httpPort, Protocol: &t}, {Name: &dns, Port: &dnsPort, Protocol: &u}},
	}
	for _, e := range s.eps {
		slice.Endpoints = append(slice.Endpoints, e.endpoint(f))
	}
	return snapshot.Build([]*corev1.Service{svc}, []*discoveryv1.EndpointSlice{slice}, NodeView(), f)
}

func (e ep) endpoint(f corev1.IPFamily) discoveryv1.Endpoint {
	node := "me"
	if e.at == Remote {
		node = "other"
	}
	out := discoveryv1.Endpoint{
		Addresses: []string{Address(e.at, f).String()}, NodeName: &node,
		Conditions: discoveryv1.EndpointConditions{Ready: &e.ready, Serving: &e.serving, Terminating: &e.terminating},
	}
	if e.zone != "" {
		out.Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: e.zone}}}
	}
	return out
}

func ofFamily(list []string, f corev1.IPFamily) []string {
	return slices.DeleteFunc(list, func(a string) bool { return strings.Contains(a, ":") != (f == corev1.IPv6Protocol) })
}

func internalLocal(s *corev1.Service) {
	policy := corev1.ServiceInternalTrafficPolicyLocal
	s.Spec.InternalTrafficPolicy = &policy
}

func externalLocal(s *corev1.Service) {
	s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
}

func affinity(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP }

func withNodePort(s *corev1.Service) {
	s.Spec.Type = corev1.ServiceTypeNodePort
	s.Spec.Ports[0].NodePort = nodePort
}

func withBalancer(s *corev1.Service) {
	withNodePort(s)
	s.Spec.Type = corev1.ServiceTypeLoadBalancer
	for _, f := range []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol} {
		s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: balancer(f).String()})
	}
}

func proxyMode(s *corev1.Service) {
	withBalancer(s)
	mode := corev1.LoadBalancerIPModeProxy
	for i := range s.Status.LoadBalancer.Ingress {
		s.Status.LoadBalancer.Ingress[i].IPMode = &mode
	}
}

// ranges of the client, or of someone else.
func ranges(client bool) func(*corev1.Service) {
	return func(s *corev1.Service) {
		s.Spec.LoadBalancerSourceRanges = []string{"192.0.2.0/24", "2001:db8:9::/64"}
		if client {
			s.Spec.LoadBalancerSourceRanges = append(s.Spec.LoadBalancerSourceRanges, "203.0.113.0/24", "2001:db8:5::/64")
		}
	}
}

// rangesIPv4 are of one family, and have the client in it.
func rangesIPv4(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = []string{"203.0.113.0/24"} }

func withExternal(s *corev1.Service) {
	s.Spec.ExternalIPs = []string{external(corev1.IPv4Protocol).String(), external(corev1.IPv6Protocol).String()}
}

func and(a, b func(*corev1.Service)) func(*corev1.Service) {
	return func(s *corev1.Service) {
		a(s)
		b(s)
	}
}
