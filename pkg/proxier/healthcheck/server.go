// Package healthcheck is EDGE: it answers load balancers that ask whether this
// node has local endpoints of a Service (healthCheckNodePort), one HTTP server
// for each such Service. It learns of them as a proxier.Observer, and alone
// listens on those ports.
package healthcheck

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/service"
)

// Config is what a Server is made of.
type Config struct {
	Log *slog.Logger
	// Healthy says whether the services half keeps up (proxier.Health.Healthy).
	Healthy func() bool
	// Listen opens a port on the addresses that node ports answer on;
	// ListenAll for all of them.
	Listen func(ctx context.Context, port uint16) (net.Listener, error)
}

// ListenAll listens on every address, of both families.
func ListenAll(ctx context.Context, port uint16) (net.Listener, error) {
	var l net.ListenConfig
	return l.Listen(ctx, "tcp", ":"+strconv.Itoa(int(port)))
}

// Server holds the listeners. One is enough for both families: the count of
// local endpoints is that of the family that was synced last and has any.
type Server struct {
	c Config

	serving sync.WaitGroup

	mu    sync.Mutex
	ports map[uint16]*port
	ended bool
}

// port is one Service's listener.
type port struct {
	name   types.NamespacedName
	server *http.Server
	local  map[string]int // by family
}

// New checks the configuration; it does nothing yet.
func New(c Config) (*Server, error) {
	if c.Log == nil || c.Healthy == nil || c.Listen == nil {
		return nil, errors.New("making the health check server: Log, Healthy and Listen are needed")
	}
	return &Server{c: c, ports: map[uint16]*port{}}, nil
}

// Run waits until ctx is done, then closes all listeners.
func (s *Server) Run(ctx context.Context) error {
	<-ctx.Done()
	s.mu.Lock()
	s.ended = true
	for n := range s.ports {
		s.close(n)
	}
	s.mu.Unlock()
	s.serving.Wait()
	return nil
}

// Synced opens and closes listeners and takes the counts of local endpoints. A
// port that cannot be opened is told, and tried again; the others are served.
func (s *Server) Synced(ctx context.Context, _, now *service.Snapshot) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return nil
	}
	family := string(now.Family)
	wanted := map[uint16]bool{}
	var problems []error
	for _, svc := range now.Services {
		n := svc.HealthCheckNodePort
		if n == 0 || wanted[n] {
			continue
		}
		wanted[n] = true
		name := types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
		p := s.ports[n]
		if p == nil {
			var err error
			if p, err = s.open(ctx, n, name); err != nil {
				problems = append(problems, err)
				continue
			}
		}
		p.name = name
		p.local[family] = svc.LocalReady
	}
	for n, p := range s.ports {
		if !wanted[n] {
			delete(p.local, family)
		}
		if len(p.local) == 0 {
			s.close(n)
		}
	}
	return errors.Join(problems...)
}

func (s *Server) open(ctx context.Context, n uint16, name types.NamespacedName) (*port, error) {
	listener, err := s.c.Listen(ctx, n)
	if err != nil {
		return nil, fmt.Errorf("opening health check node port %d of Service %q: %w", n, name, err)
	}
	p := &port{name: name, local: map[string]int{}}
	p.server = &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { s.answer(w, p) }),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    8 << 10,
	}
	s.ports[n] = p
	s.serving.Go(func() {
		if err := p.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			s.c.Log.Error("serving a health check node port ended", "port", n, "service", name, "error", err)
		}
	})
	return p, nil
}

func (s *Server) close(n uint16) {
	_ = s.ports[n].server.Close()
	delete(s.ports, n)
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

func (s *Server) answer(w http.ResponseWriter, p *port) {
	s.mu.Lock()
	name, local := p.name, 0
	for _, n := range p.local {
		local = max(local, n)
	}
	s.mu.Unlock()
	healthy := s.c.Healthy()
	code := http.StatusOK
	if local == 0 || !healthy {
		code = http.StatusServiceUnavailable
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(local))
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body{serviceName{name.Namespace, name.Name}, local, healthy})
}
