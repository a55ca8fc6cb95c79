// Package containerd is EDGE: the runtime contract on the containerd v2 client, without CRI. It
// alone imports that client.
//
// It reads containerd's containers, tasks, snapshots, images and events, and the sandbox records
// below its state folder; it writes those records, the pinned namespaces and pipes below its run
// folder, and containers under its own labels (nodeagent.dev/…). It never touches a container
// without them.
//
// # Where a fact lives
//
//	what a container is, how it ended    labels of the container's record (so: survives everything but its removal)
//	whether it runs                      its task
//	what a sandbox is, its addresses     <state>/sandboxes/<pod uid>.json
//	a sandbox's namespaces               bind mounts <run>/pods/<pod uid>/{net,ipc,uts,pid}
//	a container's pipes                  <run>/io/<container id>/{stdin,stdout,stderr}
//
// A copy of it all is kept in memory (view.go), rebuilt whenever the connection to containerd was
// lost.
package containerd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// Network gives sandboxes their network; package podnet has it on CNI.
type Network interface {
	Setup(ctx context.Context, netns, sandboxID string, c runtime.SandboxConfig) ([]netip.Addr, error)
	// Teardown undoes Setup, whole, failed or interrupted. netns is the path that Setup was given;
	// the namespace may be gone.
	Teardown(ctx context.Context, netns, sandboxID string, c runtime.SandboxConfig) error
}

// SELinux makes labels; package selinux has it. On a machine without SELinux they are empty.
type SELinux interface {
	// Labels makes labels that no other pod has, unless the options say a level.
	Labels(o runtime.SELinuxOptions) (runtime.SELinuxLabels, error)
	// Reserve keeps the level of labels from other pods, Release gives it back.
	Reserve(l runtime.SELinuxLabels)
	Release(l runtime.SELinuxLabels)
	// Relabel gives a label to what is at path and below it.
	Relabel(path, label string) error
}

// Pump joins containers' streams; package logpump has it.
type Pump interface {
	Open(ctx context.Context, out runtime.Output) error
	Seal(ctx context.Context, id string) error
	Drain(ctx context.Context, id string) error
	Attach(ctx context.Context, id string, streams runtime.IO) error
	// Remove leaves the streams and removes the log, its rotated files and its link.
	Remove(ctx context.Context, out runtime.Output) error
}

// Handler is how the containers of one RuntimeClass handler are run.
type Handler struct {
	Type   string // containerd's name, default io.containerd.runc.v2
	Binary string // OCI runtime program, default runc
	Root   string // the OCI runtime's own state folder; default containerd's
}

// Config is what a Runtime is made from.
type Config struct {
	Address     string // of containerd's socket, default /run/containerd/containerd.sock
	Namespace   string // of containerd, default k8s.io
	Snapshotter string // default overlayfs
	// Handlers by the name that a RuntimeClass gives; "" is that of pods without one and always
	// there.
	Handlers      map[string]Handler
	SystemdCgroup bool
	// StateDir survives reboots (<root>/nodeagent); RunDir does not (/run/nodeagent).
	StateDir, RunDir string
	// LogLinkDir is where log shippers look, usually /var/log/containers; "" for no links.
	LogLinkDir string
	// AllowForeign starts pods also while containerd's CRI plugin runs pods of a kubelet.
	AllowForeign bool
	// CertsDir has hosts.toml files of registries, default /etc/containerd/certs.d.
	CertsDir string
	// PullProgressDeadline cancels a pull whose registry sends nothing for so long; 0: never.
	PullProgressDeadline time.Duration
	// Reaper is the path of the static nodeagent-pump program, process 1 of shared PID namespaces.
	Reaper  string
	Network Network
	Pump    Pump
	SELinux SELinux // nil for none
	Logger  *slog.Logger
	Now     func() time.Time
}

// Runtime is a runtime.Runtime on containerd.
type Runtime struct {
	c       Config
	client  *client.Client
	calls   *calls
	view    *view
	images  *imageStore
	execs   execSet
	unpacks unpackLocks
	locks   keyLocks // one change at a time of a container, sandbox or image

	mu      sync.Mutex
	run     context.Context // of Run, nil before: what the goroutines of containers live in
	looking map[string]bool // containers that lookAgain is about
	workers sync.WaitGroup
	version string
	refused *ForeignError // why it has not begun; nil: nothing is in its way
}

var _ runtime.Runtime = (*Runtime)(nil)

// New checks the configuration. It does not reach for containerd, which may be started later.
func New(c Config) (*Runtime, error) {
	setDefault(&c.Address, "/run/containerd/containerd.sock")
	setDefault(&c.Namespace, "k8s.io")
	setDefault(&c.Snapshotter, "overlayfs")
	setDefault(&c.CertsDir, "/etc/containerd/certs.d")
	if c.SELinux == nil {
		c.SELinux = noSELinux{}
	}
	if c.StateDir == "" || c.RunDir == "" {
		return nil, errors.New("containerd runtime: state and run folders are required")
	}
	if c.Network == nil || c.Pump == nil || c.Logger == nil || c.Now == nil {
		return nil, errors.New("containerd runtime: network, log pump, logger and clock are required")
	}
	c.Pump = boundedPump{c.Pump}
	under := &calls{now: c.Now, writing: map[*write]struct{}{}}
	cl, err := client.New(c.Address, client.WithDefaultNamespace(c.Namespace), client.WithTimeout(time.Second),
		client.WithExtraDialOpts([]grpc.DialOption{grpc.WithChainUnaryInterceptor(under.unary)}))
	if err != nil {
		return nil, fmt.Errorf("preparing the client of containerd at %q: %w", c.Address, err)
	}
	r := &Runtime{c: c, client: cl, calls: under, view: newView(), looking: map[string]bool{}}
	r.images = newImageStore(r)
	return r, nil
}

// noSELinux is a machine without.
type noSELinux struct{}

func (noSELinux) Labels(runtime.SELinuxOptions) (runtime.SELinuxLabels, error) {
	return runtime.SELinuxLabels{}, nil
}
func (noSELinux) Reserve(runtime.SELinuxLabels) {}
func (noSELinux) Release(runtime.SELinuxLabels) {}
func (noSELinux) Relabel(string, string) error  { return nil }

func setDefault(s *string, value string) {
	if *s == "" {
		*s = value
	}
}

// How long containerd may take to show that it is alive: to read a record, and to change one.
const (
	readyTime     = 5 * time.Second
	writePatience = 30 * time.Second
)

// Ready is nil when what containerd holds is known, when it reads its records, and when no change
// of them is stuck; else it is an ErrUnavailable that says what to do. Its text does not change
// from one call to the next.
func (r *Runtime) Ready(ctx context.Context) error {
	if !r.view.current() {
		r.mu.Lock()
		refused := r.refused
		r.mu.Unlock()
		if refused != nil {
			return refused
		}
		return fmt.Errorf("containerd at %s does not answer: is the service running? %w", r.c.Address, runtime.ErrUnavailable)
	}
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	// Unlike containerd's health service, which always says that it serves, this goes through to
	// its database.
	_, err := r.store().Get(ctx, "nodeagent-ready")
	if err != nil && !errdefs.IsNotFound(err) {
		if ctx.Err() != nil || errdefs.IsCanceled(err) || errdefs.IsDeadlineExceeded(err) {
			return fmt.Errorf("containerd at %s is not healthy: it does not read a record within %s: look at its log and its disk, then restart it: %w",
				r.c.Address, readyTime, runtime.ErrUnavailable)
		}
		return fmt.Errorf("containerd at %s is not healthy: reading a record: %w: %w", r.c.Address, runtime.ErrUnavailable, err)
	}
	if method := r.calls.stuck(writePatience); method != "" {
		return fmt.Errorf("containerd at %s is not healthy: %s is under way for more than %s: look at its log and its disk, then restart it: %w",
			r.c.Address, method, writePatience, runtime.ErrUnavailable)
	}
	return nil
}

// Version is containerd's, as in "containerd://2.4.2"; "" until it was reached once.
func (r *Runtime) Version() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.version
}

// HandlerNames are the RuntimeClass handlers that pods may name beside "".
func (r *Runtime) HandlerNames() []string {
	var names []string
	for name := range r.c.Handlers {
		if name != "" {
			names = append(names, name)
		}
	}
	return names
}

func (r *Runtime) tasks() tasksapi.TasksClient { return r.client.TaskService() }
func (r *Runtime) store() containers.Store     { return r.client.ContainerService() }
func (r *Runtime) snapshotter() snapshots.Snapshotter {
	return r.client.SnapshotService(r.c.Snapshotter)
}
func (r *Runtime) podDir(uid string) string { return filepath.Join(r.c.RunDir, "pods", uid) }
func (r *Runtime) ioDir(id string) string   { return filepath.Join(r.c.RunDir, "io", id) }

// execDir has the pipes of one process run in a container; its name is how a later agent finds what
// was left running.
func (r *Runtime) execDir(id, execID string) string {
	return filepath.Join(r.c.RunDir, "exec", id+"."+execID)
}

// native gives an error its class: errdefs' for answers, ErrUnavailable for no answer.
func native(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok { // else a service's client has done it
		err = errgrpc.ToNative(err)
	}
	switch {
	case errdefs.IsUnavailable(err):
		return fmt.Errorf("%w: %w", runtime.ErrUnavailable, err)
	case errdefs.IsNotFound(err):
		return fmt.Errorf("%w: %w", runtime.ErrNotFound, err)
	}
	return err
}

// spawn runs f in the background until it returns or Run ends. Before Run it does nothing and says
// so.
func (r *Runtime) spawn(f func(ctx context.Context)) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.run == nil || r.run.Err() != nil {
		return false
	}
	ctx := r.run
	r.workers.Go(func() { f(ctx) })
	return true
}

// keyLocks are mutexes by name; the zero value is ready.
type keyLocks struct {
	mu    sync.Mutex
	locks map[string]*keyLock
}

type keyLock struct {
	ch    chan struct{}
	users int
}

// tryLock locks the key unless somebody has it or waits for it.
func (k *keyLocks) tryLock(key string) (func(), bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.locks[key] != nil {
		return nil, false
	}
	l := k.use(key)
	l.ch <- struct{}{}
	return func() { <-l.ch; k.release(key, l) }, true
}

// lock waits for the key or the end of ctx; call the returned function to unlock.
func (k *keyLocks) lock(ctx context.Context, key string) (func(), error) {
	k.mu.Lock()
	l := k.use(key)
	k.mu.Unlock()
	select {
	case l.ch <- struct{}{}:
		return func() { <-l.ch; k.release(key, l) }, nil
	case <-ctx.Done():
		k.release(key, l)
		return nil, ctx.Err()
	}
}

// use is called with k.mu held.
func (k *keyLocks) use(key string) *keyLock {
	if k.locks == nil {
		k.locks = map[string]*keyLock{}
	}
	l := k.locks[key]
	if l == nil {
		l = &keyLock{ch: make(chan struct{}, 1)}
		k.locks[key] = l
	}
	l.users++
	return l
}

func (k *keyLocks) release(key string, l *keyLock) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l.users--; l.users == 0 {
		delete(k.locks, key)
	}
}
