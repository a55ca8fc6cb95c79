package bed

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

const (
	// balancerFinalizer is the finalizer that cloud providers put on a Service until its load
	// balancer is removed.
	balancerFinalizer = "service.kubernetes.io/load-balancer-cleanup"
	balancerPoll      = time.Second
	proxyHealthPort   = 10256
	// outsideClient is the source address of connections to load balancers from the control plane's
	// namespace. Like clients of real load balancers it is no node's neighbour.
	outsideClient = "198.51.100.1"
)

// balancer gives Services of type LoadBalancer an address each. See Balance.
type balancer struct {
	cluster *Cluster
	client  kubernetes.Interface
	http    *http.Client
	next    netip.Addr
	vips    map[types.UID]*vip
}

// vip is the load balancer's address of one Service.
type vip struct {
	addr  netip.Addr
	route string // as last set
	told  bool   // the Service's status has it; later changes by others stay
}

// Balance makes Services of type LoadBalancer work until ctx ends, like a router to which addresses
// are announced. Each Service gets an address of 192.168.78.0/24, which the control plane's
// namespace routes per connection to the nodes that pass the Service's health check (with
// externalTrafficPolicy Local its healthCheckNodePort, else the proxy's own), and to a single one
// of them with session affinity. Packets reach the nodes unchanged; everything else is the nodes'
// work.
func (c *Cluster) Balance(ctx context.Context) error {
	client, err := c.Client()
	if err != nil {
		return err
	}
	b := &balancer{
		cluster: c, client: client, next: netip.MustParseAddr("192.168.78.1"), vips: map[types.UID]*vip{},
		http: &http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{DialContext: c.Dial, DisableKeepAlives: true}},
	}
	if err := ip(ctx, "-n", c.cp.netns, "addr", "replace", outsideClient+"/32", "dev", "lo"); err != nil {
		return err
	}
	// hash ports too
	if _, err := output(c.Command(ctx, "sysctl", "-qw", "net.ipv4.fib_multipath_hash_policy=1")); err != nil {
		return err
	}
	tick := time.NewTicker(balancerPoll)
	defer tick.Stop()
	for last := ""; ; {
		// Each step starts from scratch, so failed work is retried.
		if err := b.step(ctx); err != nil && ctx.Err() == nil && err.Error() != last {
			last = err.Error()
			c.logf("load balancer: %v", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// step brings all Services and routes up to date.
func (b *balancer) step(ctx context.Context) error {
	services, err := b.client.CoreV1().Services("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("listing Services: %w", err)
	}
	var errs []error
	known := map[types.UID]bool{}
	for i := range services.Items {
		s := &services.Items[i]
		known[s.UID] = true
		if s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.LoadBalancerClass == nil && s.DeletionTimestamp == nil {
			errs = append(errs, b.serve(ctx, s))
		} else {
			errs = append(errs, b.release(ctx, s))
		}
	}
	for uid := range b.vips {
		if !known[uid] {
			errs = append(errs, b.unroute(ctx, uid))
		}
	}
	return errors.Join(errs...)
}

// serve gives the Service its address and routes it.
func (b *balancer) serve(ctx context.Context, s *corev1.Service) error {
	if !slices.Contains(s.Finalizers, balancerFinalizer) {
		held := s.DeepCopy()
		held.Finalizers = append(held.Finalizers, balancerFinalizer)
		updated, err := b.client.CoreV1().Services(s.Namespace).Update(ctx, held, metav1.UpdateOptions{})
		if err != nil {
			return tolerated("holding", s, err)
		}
		s = updated
	}
	v := b.vips[s.UID]
	if v == nil {
		v = &vip{addr: b.next}
		b.next = b.next.Next()
		b.vips[s.UID] = v
	}
	if err := b.route(ctx, s, v); err != nil {
		return err
	}
	if v.told || len(s.Status.LoadBalancer.Ingress) > 0 {
		return nil
	}
	told := s.DeepCopy()
	mode := corev1.LoadBalancerIPModeVIP
	told.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: v.addr.String(), IPMode: &mode}}
	_, err := b.client.CoreV1().Services(s.Namespace).UpdateStatus(ctx, told, metav1.UpdateOptions{})
	v.told = err == nil
	return tolerated("giving an address to", s, err)
}

// route routes the address to the nodes that want it.
func (b *balancer) route(ctx context.Context, s *corev1.Service, v *vip) error {
	port := int32(proxyHealthPort)
	if s.Spec.HealthCheckNodePort != 0 {
		port = s.Spec.HealthCheckNodePort
	}
	var hops []string
	for _, n := range b.cluster.Nodes() {
		if b.healthy(ctx, n, port) {
			hops = append(hops, "nexthop via "+n.IP.String())
		}
	}
	if s.Spec.SessionAffinity == corev1.ServiceAffinityClientIP && len(hops) > 1 {
		hops = hops[:1] // all clients are one
	}
	route := "unreachable " + v.addr.String()
	if len(hops) > 0 {
		route = v.addr.String() + " src " + outsideClient + " " + strings.Join(hops, " ")
	}
	if route == v.route {
		return nil
	}
	err := ip(ctx, append([]string{"-n", b.cluster.cp.netns, "route", "replace"}, strings.Fields(route)...)...)
	if err == nil {
		v.route = route
	}
	return err
}

// healthy asks the node's health check.
func (b *balancer) healthy(ctx context.Context, n *Node, port int32) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s:%d/healthz", n.IP, port), nil)
	if err != nil {
		return false
	}
	answer, err := b.http.Do(request)
	if err != nil {
		return false
	}
	_ = answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}

// release takes the address from a Service that should have none any more.
func (b *balancer) release(ctx context.Context, s *corev1.Service) error {
	if err := b.unroute(ctx, s.UID); err != nil || !slices.Contains(s.Finalizers, balancerFinalizer) {
		return err
	}
	if len(s.Status.LoadBalancer.Ingress) > 0 {
		bare := s.DeepCopy()
		bare.Status.LoadBalancer = corev1.LoadBalancerStatus{}
		updated, err := b.client.CoreV1().Services(s.Namespace).UpdateStatus(ctx, bare, metav1.UpdateOptions{})
		if err != nil {
			return tolerated("taking the address from", s, err)
		}
		s = updated
	}
	free := s.DeepCopy()
	free.Finalizers = slices.DeleteFunc(free.Finalizers, func(f string) bool { return f == balancerFinalizer })
	_, err := b.client.CoreV1().Services(s.Namespace).Update(ctx, free, metav1.UpdateOptions{})
	return tolerated("letting go of", s, err)
}

func (b *balancer) unroute(ctx context.Context, uid types.UID) error {
	v := b.vips[uid]
	if v == nil {
		return nil
	}
	if v.route != "" {
		if err := ip(ctx, "-n", b.cluster.cp.netns, "route", "del", v.addr.String()); err != nil {
			return err
		}
	}
	delete(b.vips, uid)
	return nil
}

// tolerated returns nil for errors that the next step fixes: the Service has changed or is gone.
func tolerated(what string, s *corev1.Service, err error) error {
	if err == nil || apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil
	}
	return fmt.Errorf("%s Service %q: %w", what, s.Namespace+"/"+s.Name, err)
}
