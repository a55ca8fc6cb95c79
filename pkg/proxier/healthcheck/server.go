// Package healthcheck is EDGE: it answers load balancers that ask whether this
// node has local endpoints of a Service (healthCheckNodePort), with one HTTP
// server for each such Service, family and address. It learns of them as a
// proxier.Observer, and alone listens on those ports, on the addresses that node
// ports answer on.
package healthcheck

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/proxier/snapshot"
)

// retry is how soon a port that cannot be opened is tried again: another program may have it for a
// moment.
const retry = 5 * time.Second

// Config is what a Server is made of.
type Config struct {
	Log *slog.Logger
	// Healthy says whether the services half keeps up (proxier.Health.Healthy).
	Healthy func() bool
	// NodePorts say on which addresses to listen.
	NodePorts snapshot.NodePortAddresses
	// Addresses are the machine's own; asked for where NodePorts are not all of them.
	Addresses func() ([]netip.Addr, error)
	// Listen is net.ListenConfig.Listen.
	Listen func(ctx context.Context, network, address string) (net.Listener, error)
	// Failed is told once of each port that cannot be opened; may be nil.
	Failed func(name types.NamespacedName, port uint16, err error)
}

// Server holds the listeners. Its life: Synced opens and closes them; what
// cannot be opened is told, and tried again by Run until it is; Run closes all at
// its end.
type Server struct {
	c       Config
	serving sync.WaitGroup

	mu        sync.Mutex
	wanted    map[corev1.IPFamily]wanted
	listeners map[place]listening
	failed    map[place]error
	ended     bool
}

// wanted is what one family's snapshot asks for.
type wanted struct {
	services map[uint16]local
	places   snapshot.Places
}

// local is one Service, and how many endpoints it has here.
type local struct {
	name  types.NamespacedName
	ready int
}

// listening is an open port.
type listening struct {
	server   *http.Server
	listener net.Listener
}

// place is where a family listens.
type place struct {
	family corev1.IPFamily
	at     netip.AddrPort
}

func (p place) compare(o place) int {
	return cmp.Or(p.at.Compare(o.at), cmp.Compare(p.family, o.family))
}

// New checks the configuration; it does nothing yet.
func New(c Config) (*Server, error) {
	if c.Log == nil || c.Healthy == nil || c.Addresses == nil || c.Listen == nil {
		return nil, errors.New("making the health check server: Log, Healthy, Addresses and Listen are needed")
	}
	return &Server{c: c, wanted: map[corev1.IPFamily]wanted{}, listeners: map[place]listening{}, failed: map[place]error{}}, nil
}

// Run tries again what could not be opened until ctx is done, then closes all listeners.
func (s *Server) Run(ctx context.Context) error {
	again := time.NewTicker(retry)
	defer again.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-again.C:
			s.mu.Lock()
			if len(s.failed) > 0 {
				s.settle(ctx)
			}
			s.mu.Unlock()
		}
	}
	s.mu.Lock()
	s.ended = true
	for p := range s.listeners {
		s.close(p)
	}
	s.mu.Unlock()
	s.serving.Wait()
	return nil
}

// Synced implements proxier.Observer.
func (s *Server) Synced(ctx context.Context, _, now *snapshot.Snapshot) error {
	w := wanted{services: map[uint16]local{}, places: s.c.NodePorts.At(now.Family, now.Node)}
	for _, svc := range now.Services {
		if n := svc.HealthCheckNodePort; n != 0 && w.services[n].name.Name == "" {
			w.services[n] = local{types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}, svc.LocalReady}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wanted[now.Family] = w
	s.settle(ctx)
	return nil
}

// AddressesChanged has the machine's addresses looked at again.
func (s *Server) AddressesChanged(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.wanted {
		if !w.places.All && len(w.services) > 0 {
			s.settle(ctx)
			return
		}
	}
}

// Problems names the ports that cannot be opened, for a status.
func (s *Server) Problems() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, p := range slices.SortedFunc(maps.Keys(s.failed), place.compare) {
		out = append(out, s.failed[p].Error())
	}
	return out
}

// settle opens and closes listeners, so that they are those that are wanted.
func (s *Server) settle(ctx context.Context) {
	if s.ended {
		return
	}
	want := map[place]types.NamespacedName{}
	for f, w := range s.wanted {
		addresses, err := s.addresses(f, w)
		if err != nil {
			s.unknown(f, err, want)
			continue
		}
		delete(s.failed, place{family: f})
		for n, svc := range w.services {
			for _, a := range addresses {
				want[place{f, netip.AddrPortFrom(a, n)}] = svc.name
			}
		}
	}
	for p := range s.listeners {
		if _, ok := want[p]; !ok {
			s.close(p)
		}
	}
	maps.DeleteFunc(s.failed, func(p place, _ error) bool { _, ok := want[p]; return !ok && p.at.IsValid() })
	for _, p := range slices.SortedFunc(maps.Keys(want), place.compare) {
		if _, ok := s.listeners[p]; !ok {
			s.open(ctx, p, want[p])
		}
	}
}

// unknown leaves a family as it is while the machine's addresses cannot be told.
func (s *Server) unknown(f corev1.IPFamily, err error, want map[place]types.NamespacedName) {
	for p := range s.listeners {
		if svc, ok := s.wanted[f].services[p.at.Port()]; ok && p.family == f {
			want[p] = svc.name
		}
	}
	if s.failed[place{family: f}] == nil {
		s.c.Log.Error("health check node ports stay on the addresses that they have", "family", f, "error", err, "retryIn", retry)
	}
	s.failed[place{family: f}] = fmt.Errorf("opening health check node ports: %w", err)
}

// addresses are those to listen on. Link-local ones are left out: they mean nothing without an
// interface.
func (s *Server) addresses(f corev1.IPFamily, w wanted) ([]netip.Addr, error) {
	switch {
	case len(w.services) == 0:
		return nil, nil
	case !w.places.All:
		all, err := s.c.Addresses()
		return slices.DeleteFunc(all, func(a netip.Addr) bool {
			return a.Is4() != (f == corev1.IPv4Protocol) || a.IsLinkLocalUnicast() || !w.places.Has(a)
		}), err
	case f == corev1.IPv6Protocol:
		return []netip.Addr{netip.IPv6Unspecified()}, nil
	}
	return []netip.Addr{netip.IPv4Unspecified()}, nil
}

func (s *Server) open(ctx context.Context, at place, name types.NamespacedName) {
	network := "tcp4"
	if at.family == corev1.IPv6Protocol {
		network = "tcp6"
	}
	listener, err := s.c.Listen(ctx, network, at.at.String())
	if err != nil {
		s.fail(at, name, err)
		return
	}
	if s.failed[at] != nil {
		s.c.Log.Info("a health check node port is served now", "at", at.at, "service", name)
		delete(s.failed, at)
	}
	server := &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { s.answer(w, at) }),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    8 << 10,
	}
	s.listeners[at] = listening{server, listener}
	s.serving.Go(func() {
		err := server.Serve(listener)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.listeners[at].server == server && !errors.Is(err, http.ErrServerClosed) {
			s.close(at)
			s.fail(at, name, err)
		}
	})
}

// fail tells of a place that is not served, once.
func (s *Server) fail(at place, name types.NamespacedName, err error) {
	known := s.failed[at] != nil
	s.failed[at] = fmt.Errorf("opening health check node port %d of Service %q: %w", at.at.Port(), name, err)
	if known {
		return
	}
	s.c.Log.Error("a health check node port is not served", "at", at.at, "service", name, "error", err, "retryIn", retry)
	if s.c.Failed != nil {
		s.c.Failed(name, at.at.Port(), err)
	}
}

func (s *Server) close(p place) {
	_ = s.listeners[p].server.Close()
	_ = s.listeners[p].listener.Close() // which the server does not know yet if it has just begun
	delete(s.listeners, p)
}

// body is the answer as cloud load balancers and people know it.
type body struct {
	Service        serviceName `json:"service"`
	LocalEndpoints int         `json:"localEndpoints"`
	Healthy        bool        `json:"serviceProxyHealthy"`
}

type serviceName struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

func (s *Server) answer(w http.ResponseWriter, at place) {
	s.mu.Lock()
	svc := s.wanted[at.family].services[at.at.Port()]
	s.mu.Unlock()
	healthy := s.c.Healthy()
	code := http.StatusOK
	if svc.ready == 0 || !healthy {
		code = http.StatusServiceUnavailable
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(svc.ready))
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body{serviceName{svc.name.Namespace, svc.name.Name}, svc.ready, healthy})
}
