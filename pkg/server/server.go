// Package server is EDGE: the node's API on port 10250, for the API server (`kubectl logs`,
// `exec`, `attach`, `port-forward`), metrics collectors and people, and the health page on 10248.
// It reads pods and streams, and changes nothing. Every request to 10250 is authenticated (client
// certificate or TokenReview) and authorized (SubjectAccessReview) before it is handled.
package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// Pods are the pods of this node.
type Pods interface {
	// Named returns the pod with its newest status; nil if there is none.
	Named(namespace, name string) *corev1.Pod
	// Pods returns all of them with their newest statuses.
	Pods() []*corev1.Pod
}

// Runtime is what the node API uses of the container runtime.
type Runtime interface {
	runtime.Streams
	// Get returns what runs of a pod, from memory.
	Get(ctx context.Context, uid types.UID) (runtime.Pod, error)
}

// LogReader copies a container's log file to the writers, which may be the same one.
type LogReader func(ctx context.Context, path string, o runtime.LogOptions, stdout, stderr io.Writer) error

// Config of a Server. Fields without a default are required.
type Config struct {
	Listen  netip.AddrPort
	Ports   *Ports // may be nil
	Pods    Pods
	Runtime Runtime
	Logs    LogReader
	Auth    Authenticator
	Access  Authorizer
	// Certificate is called at each handshake, so that a rotated certificate is used at once.
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// ClientCA is called at each handshake; nil pool: no client certificates.
	ClientCA     func() *x509.CertPool
	MinVersion   uint16 // of TLS; at least 1.2
	CipherSuites []uint16
	Metrics      http.Handler
	Healthy      func() error
	// Debugging serves logs, exec, attach and port-forward; Profiling serves /debug/pprof; LogDir
	// is served at /logs/, "": not.
	Debugging, Profiling bool
	LogDir               string
	StreamIdle           time.Duration // 0 for 4 h
	Configz              func() any
	Now                  func() time.Time
	Log                  *slog.Logger
}

// Server is the node's API.
type Server struct {
	config Config
	// Ready is closed when the port is open.
	ready   chan struct{}
	refused refusals
}

// New checks the configuration and opens nothing.
func New(c Config) (*Server, error) {
	switch {
	case c.Pods == nil, c.Runtime == nil, c.Logs == nil, c.Auth == nil, c.Access == nil, c.Certificate == nil, c.Now == nil, c.Log == nil:
		return nil, errors.New("making the node API: Pods, Runtime, Logs, Auth, Access, Certificate, Now and Log are required")
	}
	if c.MinVersion < tls.VersionTLS12 {
		c.MinVersion = tls.VersionTLS12
	}
	if c.StreamIdle <= 0 {
		c.StreamIdle = 4 * time.Hour
	}
	return &Server{config: c, ready: make(chan struct{})}, nil
}

// Ready is closed when the port is open.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Run serves until ctx ends; then it cuts running streams.
func (s *Server) Run(ctx context.Context) error {
	l := s.config.Ports.Listen(ctx, s.config.Listen, "is a kubelet running on this machine? --port chooses another for the node API", s.config.Log)
	if l == nil {
		return nil
	}
	close(s.ready)
	h := &http.Server{
		Handler: s.handler(), ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 90 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	return ServeUntil(ctx, h, tls.NewListener(l, s.tls()), s.config.Log)
}

// ServeUntil serves until ctx ends; then it cuts running requests. It logs client errors at debug
// level.
func ServeUntil(ctx context.Context, h *http.Server, l net.Listener, log *slog.Logger) error {
	h.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	failed := make(chan error, 1)
	go func() { failed <- h.Serve(l) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serving on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	err := h.Close()
	if ended := <-failed; err == nil && !errors.Is(ended, http.ErrServerClosed) {
		err = ended
	}
	if err != nil {
		return fmt.Errorf("closing %s: %w", l.Addr(), err)
	}
	return nil
}

func (s *Server) tls() *tls.Config {
	base := &tls.Config{
		MinVersion: s.config.MinVersion, CipherSuites: s.config.CipherSuites,
		GetCertificate: s.config.Certificate, NextProtos: []string{"http/1.1"},
	}
	if s.config.ClientCA == nil {
		return base
	}
	// Called at each handshake, so that a changed CA bundle is used without a restart. A
	// certificate that does not verify fails in Authenticator, with the cause, not in the
	// handshake.
	base.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		c := base.Clone()
		c.GetConfigForClient = nil
		c.ClientAuth = tls.RequestClientCert
		c.ClientCAs = s.config.ClientCA()
		return c, nil
	}
	return base
}

// handler is the table of paths. Which permission each needs is in access.go.
func (s *Server) handler() http.Handler {
	m := http.NewServeMux()
	handleHealth(m, s.config.Healthy)
	m.Handle("GET /pods", http.HandlerFunc(s.pods))
	m.Handle("GET /runningpods/", http.HandlerFunc(s.runningPods))
	if s.config.Metrics != nil {
		m.Handle("GET /metrics", s.config.Metrics)
	}
	if s.config.Configz != nil {
		m.HandleFunc("GET /configz", func(w http.ResponseWriter, r *http.Request) { s.json(w, s.config.Configz()) })
	}
	if s.config.Debugging {
		s.debugging(m)
	}
	if s.config.LogDir != "" {
		m.Handle("GET /logs/", http.StripPrefix("/logs/", http.HandlerFunc(s.systemLogs)))
	}
	if s.config.Profiling {
		HandleProfiles(m)
	}
	return s.guard(m)
}

// HandleProfiles adds the pages of Go's profiler, /debug/pprof/.
func HandleProfiles(m *http.ServeMux) {
	m.HandleFunc("/debug/pprof/", pprof.Index)
	m.HandleFunc("/debug/pprof/profile", pprof.Profile)
	m.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	m.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	m.HandleFunc("/debug/pprof/trace", pprof.Trace)
}

// debugging adds the paths that read from or enter containers.
func (s *Server) debugging(m *http.ServeMux) {
	m.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", s.containerLogs)
	for _, verb := range []string{"GET", "POST"} {
		for _, uid := range []string{"", "/{uid}"} {
			m.HandleFunc(verb+" /exec/{namespace}/{pod}"+uid+"/{container}", s.exec)
			m.HandleFunc(verb+" /attach/{namespace}/{pod}"+uid+"/{container}", s.attach)
			m.HandleFunc(verb+" /portForward/{namespace}/{pod}"+uid, s.portForward)
		}
	}
	m.HandleFunc("POST /run/{namespace}/{pod}/{container}", s.run)
	m.HandleFunc("POST /run/{namespace}/{pod}/{uid}/{container}", s.run)
}

// systemLogs serves the files below the log folder and follows no link out of it: whoever may
// write there, as containers with a hostPath often may, must not choose which of the node's files
// are served.
func (s *Server) systemLogs(w http.ResponseWriter, r *http.Request) {
	root, err := os.OpenRoot(s.config.LogDir)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer func() { _ = root.Close() }()
	http.FileServerFS(root.FS()).ServeHTTP(w, r)
}

func (s *Server) pods(w http.ResponseWriter, _ *http.Request) {
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: []corev1.Pod{}}
	for _, p := range s.config.Pods.Pods() {
		list.Items = append(list.Items, *p)
	}
	s.json(w, list)
}

// runningPods lists the pods with a running container, as the runtime reports them.
func (s *Server) runningPods(w http.ResponseWriter, r *http.Request) {
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: []corev1.Pod{}}
	for _, p := range s.config.Pods.Pods() {
		observed := s.runs(r.Context(), p.UID)
		running := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, UID: p.UID}}
		for _, c := range observed.Containers {
			if c.State == runtime.Running {
				running.Spec.Containers = append(running.Spec.Containers, corev1.Container{Name: c.Name, Image: c.ImageID})
			}
		}
		if len(running.Spec.Containers) > 0 {
			list.Items = append(list.Items, running)
		}
	}
	s.json(w, list)
}

// runs is what runs of a pod.
func (s *Server) runs(ctx context.Context, uid types.UID) runtime.Pod {
	pod, err := s.config.Runtime.Get(ctx, uid)
	if err != nil {
		s.config.Log.Error("Runtime did not say what runs of a pod", "uid", uid, "err", err)
	}
	return pod
}

func (s *Server) json(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		s.config.Log.Debug("Response cannot be written", "err", err)
	}
}
