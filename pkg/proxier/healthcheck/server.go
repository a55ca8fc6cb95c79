// Package healthcheck is EDGE: it answers load balancers that ask whether this
// node has local endpoints of a Service (healthCheckNodePort), with one HTTP
// server for each such Service, family and address. It learns of them as a
// proxier.Observer. It alone listens on those ports, on the addresses on which node
// ports answer.
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
	// Listen is net.ListenConfig.Listen.
	Listen func(ctx context.Context, network, address string) (net.Listener, error)
	// Failed is called once for each port that cannot be opened; may be nil.
	Failed func(name types.NamespacedName, port uint16, err error)
}

// Server holds the listeners. Its life: Synced opens and closes them; Run tries
// again to open those that could not be opened, and closes all at its end.
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
	services  map[uint16]local
	addresses []netip.Addr // to listen on
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
	if c.Log == nil || c.Healthy == nil || c.Listen == nil {
		return nil, errors.New("making the health check server: Log, Healthy and Listen are needed")
	}
	return &Server{c: c, wanted: map[corev1.IPFamily]wanted{}, listeners: map[place]listening{}, failed: map[place]error{}}, nil
}

// Run tries again to open what could not be opened until ctx is done, then closes all listeners.
func (s *Server) Run(ctx context.Context) error {
	again := time.NewTicker(retry)
	defer again.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-again.C:
			s.mu.Lock()
			if len(s.failed) > 0 {
				s.listen(ctx)
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
	w := wanted{services: map[uint16]local{}, addresses: addresses(now)}
	for _, svc := range now.Services {
		if n := svc.HealthCheckNodePort; n != 0 && w.services[n].name.Name == "" {
			w.services[n] = local{types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}, svc.LocalReady}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wanted[now.Family] = w
	s.listen(ctx)
	return nil
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

// listen opens and closes listeners, so that exactly the wanted ones are open.
func (s *Server) listen(ctx context.Context) {
	if s.ended {
		return
	}
	want := map[place]types.NamespacedName{}
	for f, w := range s.wanted {
		for n, svc := range w.services {
			for _, a := range w.addresses {
				want[place{f, netip.AddrPortFrom(a, n)}] = svc.name
			}
		}
	}
	for p := range s.listeners {
		if _, ok := want[p]; !ok {
			s.close(p)
		}
	}
	maps.DeleteFunc(s.failed, func(p place, _ error) bool { _, ok := want[p]; return !ok })
	for _, p := range slices.SortedFunc(maps.Keys(want), place.compare) {
		if _, ok := s.listeners[p]; !ok {
			s.open(ctx, p, want[p])
		}
	}
}

// addresses are those to listen on. Link-local ones are left out: they mean nothing without an
// interface.
func addresses(now *snapshot.Snapshot) []netip.Addr {
	switch {
	case !now.NodePorts.All:
		return slices.DeleteFunc(now.NodePortAddresses(), netip.Addr.IsLinkLocalUnicast)
	case now.Family == corev1.IPv6Protocol:
		return []netip.Addr{netip.IPv6Unspecified()}
	}
	return []netip.Addr{netip.IPv4Unspecified()}
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
		s.c.Log.Info("Serving a health check node port that could not be opened before", "address", at.at, "service", name)
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

// fail notes that a place is not served; it is logged once.
func (s *Server) fail(at place, name types.NamespacedName, err error) {
	known := s.failed[at] != nil
	s.failed[at] = fmt.Errorf("opening health check node port %d of Service %q: %w", at.at.Port(), name, err)
	if known {
		return
	}
	s.c.Log.Error("Opening a health check node port failed", "address", at.at, "service", name, "err", err, "retryIn", retry)
	if s.c.Failed != nil {
		s.c.Failed(name, at.at.Port(), err)
	}
}

func (s *Server) close(p place) {
	_ = s.listeners[p].server.Close()
	_ = s.listeners[p].listener.Close() // the server does not know it yet if it has just begun
	delete(s.listeners, p)
}

// body is the answer in kube-proxy's format.
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
