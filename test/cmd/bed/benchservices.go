package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeagent/nodeagent/pkg/sleep"
	"github.com/nodeagent/nodeagent/test/bed"
)

// probed is the Service through which connections are tried.
const probed = "probed"

// quiet is the time between two changes. Neither proxy batches changes for longer, so each change
// is the first one after a rest.
const quiet = 3 * time.Second

// manyServices measures the proxies with many Services.
func (b *bench) manyServices(ctx context.Context) error {
	if b.services == 0 {
		return nil
	}
	b.say("creating %d Services of two endpoints", b.services)
	before, err := b.costs()
	if err != nil {
		return err
	}
	if err := b.createServices(ctx); err != nil {
		return err
	}
	address, err := b.createProbed(ctx)
	if err != nil {
		return err
	}
	for _, s := range b.sides {
		if _, err := s.until(ctx, address, true); err != nil {
			return err
		}
	}
	if err := sleep.For(ctx, b.rest); err != nil {
		return err
	}
	after, err := b.costs()
	if err != nil {
		return err
	}
	for i, s := range b.sides {
		b.report.add(servicesCPU, s, (after[i].agent.cpu - before[i].agent.cpu).Seconds())
		b.report.add(servicesRSS, s, mib(after[i].agent.rss))
		b.report.add(proxyCPU, s, (after[i].proxy.cpu - before[i].proxy.cpu).Seconds())
		b.report.add(proxyRSS, s, mib(after[i].proxy.rss))
	}
	b.say("changing an endpoint %d times for each node", b.changes)
	err = b.rounds(ctx, b.changes, func(ctx context.Context, s *side, round int) error {
		return b.changeEndpoint(ctx, s, round, address)
	})
	if err != nil || b.fresh == 0 {
		return err
	}
	b.say("starting the proxies with all Services there and no rules, %d times", b.fresh)
	return b.rounds(ctx, b.fresh, func(ctx context.Context, s *side, round int) error { return b.fromNothing(ctx, s, round, address) })
}

// fromNothing starts a side's proxy on a node without rules: nodeagent with both halves, then with
// only its services half.
func (b *bench) fromNothing(ctx context.Context, s *side, round int, address string) error {
	proxy := s.node.Process(s.proxy)
	if err := proxy.Stop(30 * time.Second); err != nil {
		return err
	}
	ours := s == b.sides[0]
	whole := freshStart{address: address, figures: []freshFigure{fresh}, start: func() (*bed.Process, error) { return proxy, proxy.Start() }}
	if !ours {
		whole.figures = append(whole.figures, freshProxy) // kube-proxy's stand beside both
	}
	err := b.oneFresh(ctx, s, round, whole)
	if err != nil || !ours {
		return err
	}
	if err := proxy.Stop(30 * time.Second); err != nil {
		return err
	}
	var alone *bed.Process
	err = b.oneFresh(ctx, s, round, freshStart{address: address, figures: []freshFigure{freshProxy}, start: func() (p *bed.Process, err error) {
		alone, err = bed.NodeAgent{Dir: b.programs}.StartProxy(ctx, s.node)
		return alone, err
	}})
	if err != nil {
		return err
	}
	if err := alone.Stop(30 * time.Second); err != nil {
		return err
	}
	return proxy.Start()
}

// freshStart is a proxy to start on a node without rules.
type freshStart struct {
	address string // to be reached
	figures []freshFigure
	start   func() (*bed.Process, error)
}

// oneFresh flushes all tables and measures a start.
func (b *bench) oneFresh(ctx context.Context, s *side, round int, f freshStart) error {
	flush := s.node.Command(ctx, "iptables-restore")
	flush.Stdin = strings.NewReader("*nat\nCOMMIT\n*filter\nCOMMIT\n*mangle\nCOMMIT\n")
	if out, err := flush.CombinedOutput(); err != nil {
		return fmt.Errorf("flushing the rules of node %q: %w: %s", s.node.Name, err, out)
	}
	if _, err := s.until(ctx, f.address, false); err != nil {
		return err
	}
	began := time.Now()
	p, err := f.start()
	if err != nil {
		return err
	}
	at, err := s.until(ctx, f.address, true)
	if err != nil {
		return err
	}
	if err := sleep.For(ctx, b.rest); err != nil {
		return err
	}
	all, err := s.node.Usage()
	i := slices.IndexFunc(all, func(u bed.Usage) bool { return u.PID == p.PID() })
	if err != nil || i < 0 {
		return errors.Join(err, fmt.Errorf("reading what %q on %q uses: it does not run", p.Name(), s.node.Name))
	}
	if round < 0 {
		return nil
	}
	for _, q := range f.figures {
		b.report.add(q.took, s, at.Sub(began).Seconds())
		b.report.add(q.cpu, s, all[i].CPU.Seconds())
		b.report.add(q.peak, s, mib(all[i].Peak))
		b.report.add(q.rss, s, mib(all[i].RSS))
	}
	return nil
}

// createServices makes Services without a selector, whose endpoints are nobody's.
func (b *bench) createServices(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i := range b.services {
		g.Go(func() error {
			a, c := fmt.Sprintf("10.200.%d.%d", i/100, 2*(i%100)+1), fmt.Sprintf("10.200.%d.%d", i/100, 2*(i%100)+2)
			_, err := b.createService(ctx, fmt.Sprintf("bench-%d", i), 8080, a, c)
			return err
		})
	}
	return g.Wait()
}

// createProbed makes the Service whose endpoint is the API server, which always listens, and
// returns where to ask it.
func (b *bench) createProbed(ctx context.Context) (string, error) {
	host, _, err := net.SplitHostPort(b.cluster.Server())
	if err != nil {
		return "", fmt.Errorf("reading the API server's address: %w", err)
	}
	svc, err := b.createService(ctx, probed, 6443, host)
	if err != nil {
		return "", err
	}
	return net.JoinHostPort(svc.Spec.ClusterIP, "80"), nil
}

func (b *bench) createService(ctx context.Context, name string, port int32, addresses ...string) (*corev1.Service, error) {
	svc, err := b.client.CoreV1().Services(benchNamespace).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "p", Port: 80}}},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("creating Service %q: %w", name, err)
	}
	_, err = b.client.DiscoveryV1().EndpointSlices(benchNamespace).Create(ctx, &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name, discoveryv1.LabelManagedBy: "bench"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: new("p"), Port: &port, Protocol: new(corev1.ProtocolTCP)}},
		Endpoints:   endpoints(addresses...),
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("creating EndpointSlice %q: %w", name, err)
	}
	return svc, nil
}

func endpoints(addresses ...string) []discoveryv1.Endpoint {
	out := []discoveryv1.Endpoint{}
	for _, a := range addresses {
		out = append(out, discoveryv1.Endpoint{Addresses: []string{a}, Conditions: discoveryv1.EndpointConditions{Ready: new(true)}})
	}
	return out
}

// changeEndpoint takes the probed Service's endpoint away and gives it back, and measures that on
// one side while the other's proxy is stopped, so that the two do not take the processors from each
// other.
func (b *bench) changeEndpoint(ctx context.Context, s *side, round int, address string) error {
	if _, err := b.setProbed(ctx, false); err != nil {
		return err
	}
	for _, each := range b.sides {
		if _, err := each.until(ctx, address, false); err != nil {
			return err
		}
	}
	if err := sleep.For(ctx, quiet); err != nil {
		return err
	}
	other := b.sides[(slices.Index(b.sides[:], s)+1)%2]
	thaw, err := bed.Freeze(other.node.Process(other.proxy))
	if err != nil {
		return err
	}
	started, err := b.setProbed(ctx, true)
	var at time.Time
	if err == nil {
		at, err = s.until(ctx, address, true)
	}
	if err := errors.Join(err, thaw()); err != nil {
		return err
	}
	if round >= 0 {
		b.report.add(endpointChange, s, at.Sub(started).Seconds())
	}
	_, err = other.until(ctx, address, true)
	return err
}

// setProbed gives the probed Service its endpoint or takes it away, and returns when it asked for
// that.
func (b *bench) setProbed(ctx context.Context, there bool) (began time.Time, err error) {
	host, _, err := net.SplitHostPort(b.cluster.Server())
	if err != nil {
		return began, fmt.Errorf("reading the API server's address: %w", err)
	}
	slices := b.client.DiscoveryV1().EndpointSlices(benchNamespace)
	slice, err := slices.Get(ctx, probed, metav1.GetOptions{})
	if err != nil {
		return began, fmt.Errorf("reading EndpointSlice %q: %w", probed, err)
	}
	slice.Endpoints = endpoints()
	if there {
		slice.Endpoints = endpoints(host)
	}
	began = time.Now()
	if _, err := slices.Update(ctx, slice, metav1.UpdateOptions{}); err != nil {
		return began, fmt.Errorf("updating EndpointSlice %q: %w", probed, err)
	}
	return began, nil
}

// patience with one connection: a packet that was dropped meets the old rules; the next attempt
// meets the new ones.
const patience = 5 * time.Millisecond

// until tries connections from the node until one succeeds, or fails if not there is what is waited
// for.
func (s *side) until(ctx context.Context, address string, there bool) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		try, end := context.WithTimeout(ctx, patience)
		conn, err := s.node.Dial(try, "tcp", address)
		end()
		if err == nil {
			_ = conn.Close()
		}
		if (err == nil) == there {
			return time.Now(), nil
		}
		select {
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("connecting to %s from node %q: want success %v, got %w", address, s.node.Name, there, err)
		case <-time.After(2 * time.Millisecond):
		}
	}
}
