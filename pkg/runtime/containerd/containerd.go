// Package containerd is EDGE: the runtime contract on the containerd v2 client, without CRI. No
// other package imports that client.
//
// It reads containerd's containers, tasks, snapshots, images and events, and the sandbox records
// below its state folder. It writes those records, the pinned namespaces and pipes below its run
// folder, and containers under its own labels (nodeagent.dev/…). It never touches a container
// without these labels.
//
// # Where a fact lives
//
//	what a container is, how it exited   labels of the container's record, which only its removal deletes
//	whether it runs                      its task
//	what a sandbox is, its addresses     <state>/sandboxes/<pod uid>.json
//	a sandbox's namespaces               bind mounts <run>/pods/<pod uid>/{net,ipc,uts,pid}
//	a container's pipes                  <run>/io/<container id>/{stdin,stdout,stderr}
//	a process run by Exec                <run>/exec/<container id>.<exec id>
//	an image volume's content            <state>/volumes/<container id>
//
// The view (view.go) caches all of it in memory. It is rebuilt whenever the connection to
// containerd was lost.
//
// # Files
//
//	containerd.go   Config, New, and the roles that Config takes
//	connection.go   Run: connect, subscribe to events, reconcile; again after a loss
//	view.go         the cache, and runtime.Pods on it
//	adopt.go        from record and task to the view, after a connect or an event
//	inventory.go    the pods by the records alone, without Run
//
//	sandbox.go      StartSandbox, RemoveSandbox and the sandbox records
//	namespaces.go   creating and pinning namespaces      sysctls.go   their kernel parameters
//	reaper.go       process 1 of a shared PID namespace
//
//	container.go    StartContainer, Signal, RemoveContainer
//	launch.go       the steps of a start                 task.go      creating, starting, deleting tasks
//	exit.go         waiting for an exit and recording it pidfd.go     exit codes from the kernel
//	records.go      containerd's records                 labels.go    PURE: what their labels mean
//	handlers.go     RuntimeClass handlers                resources.go UpdateResources
//	cgroups.go      OOM kills and memory use             starttime.go start times, before the label has them
//	volumes.go      image volumes                        confine.go   seccomp and AppArmor profiles
//
//	exec.go         Exec: the process                    execpipes.go its streams
//	attach.go       Attach
//
//	images.go       runtime.Images                       imagestore.go the index of images
//	imagemount.go   reading files of an image            user.go      User
//	pull.go         Pull                                 progress.go  its progress deadline
//
//	health.go       Ready                                deadline.go  time limits of all calls
//	probe.go        facts for preflight checks           foreign.go   pods of a kubelet
//	errors.go       classes of errors                    keylocks.go  mutexes by key
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
	"google.golang.org/grpc"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// Network connects sandboxes; package podnet implements it with CNI.
type Network interface {
	Setup(ctx context.Context, netns, sandboxID string, c runtime.SandboxConfig) ([]netip.Addr, error)
	// Teardown undoes Setup, even one that failed or was interrupted. netns is the path that Setup
	// was given; the namespace may be gone.
	Teardown(ctx context.Context, netns, sandboxID string, c runtime.SandboxConfig) error
}

// SELinux makes labels; package selinux implements it. On a machine without SELinux all labels are
// empty.
type SELinux interface {
	// Labels makes labels with a level that no other pod has, unless the options name a level.
	Labels(o runtime.SELinuxOptions) (runtime.SELinuxLabels, error)
	// Reserve takes the level of labels, Release frees it.
	Reserve(l runtime.SELinuxLabels)
	Release(l runtime.SELinuxLabels)
	// Relabel sets the label of the file or folder at path and everything below it.
	Relabel(path, label string) error
}

// Pump connects containers' streams to their logs; package logpump implements it.
type Pump interface {
	Open(ctx context.Context, out runtime.Output) error
	Seal(ctx context.Context, id string) error
	Drain(ctx context.Context, id string) error
	Attach(ctx context.Context, id string, streams runtime.IO) error
	// Remove closes the streams and deletes the log, its rotated files and its link.
	Remove(ctx context.Context, out runtime.Output) error
}

// Config configures a Runtime.
type Config struct {
	Address     string // containerd's socket, default /run/containerd/containerd.sock
	Namespace   string // containerd's namespace, default k8s.io
	Snapshotter string // default overlayfs
	// Handlers by RuntimeClass handler name. "" is for pods without a RuntimeClass and always
	// exists.
	Handlers      map[string]Handler
	SystemdCgroup bool
	// StateDir survives reboots (<root>/nodeagent); RunDir does not (/run/nodeagent).
	StateDir, RunDir string
	// LogLinkDir is where log shippers look for logs, usually /var/log/containers; "" makes no
	// links.
	LogLinkDir string
	// AllowForeign starts pods even while containerd's CRI plugin runs pods of a kubelet.
	AllowForeign bool
	// CertsDir holds the hosts.toml files of registries, default /etc/containerd/certs.d.
	CertsDir string
	// PullProgressDeadline cancels a pull that receives nothing for this long; 0 never does.
	PullProgressDeadline time.Duration
	// Reaper is the path of the static nodeagent-pump program, which runs as process 1 of shared
	// PID namespaces.
	Reaper  string
	Network Network
	Pump    Pump
	SELinux SELinux // nil for none
	Logger  *slog.Logger
	Now     func() time.Time
}

// Runtime implements runtime.Runtime on containerd.
type Runtime struct {
	c       Config
	client  *client.Client
	calls   *calls
	view    *view
	images  *imageStore
	execs   execSet
	unpacks unpackLocks
	locks   keyLocks // serialise changes of one container, sandbox or image

	mu        sync.Mutex
	run       context.Context // of Run, nil before it; bounds all background goroutines
	observing map[string]bool // containers that observeLater has in hand
	workers   sync.WaitGroup
	version   string
	refused   *ForeignError // why no pods are started yet; nil if they may be
}

var (
	_ runtime.Runtime      = (*Runtime)(nil)
	_ runtime.Daemon       = (*Runtime)(nil)
	_ runtime.Handlers     = (*Runtime)(nil)
	_ runtime.LocalStorage = (*Runtime)(nil)
	_ runtime.Shared       = (*Runtime)(nil)
)

// New checks the configuration. It does not connect: containerd may start later.
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
	r := &Runtime{c: c, client: cl, calls: under, view: newView(), observing: map[string]bool{}}
	r.images = newImageStore(r)
	return r, nil
}

// noSELinux is a machine without SELinux.
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

// Version is containerd's, as in "containerd://2.4.2"; "" until the first connection.
func (r *Runtime) Version() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.version
}

func (r *Runtime) tasks() tasksapi.TasksClient { return r.client.TaskService() }
func (r *Runtime) store() containers.Store     { return r.client.ContainerService() }
func (r *Runtime) snapshotter() snapshots.Snapshotter {
	return r.client.SnapshotService(r.c.Snapshotter)
}
func (r *Runtime) podDir(uid string) string { return filepath.Join(r.c.RunDir, "pods", uid) }
func (r *Runtime) ioDir(id string) string   { return filepath.Join(r.c.RunDir, "io", id) }

// execDir holds the pipes of one exec'd process. By its name a later agent finds a process that was
// left running.
func (r *Runtime) execDir(id, execID string) string {
	return filepath.Join(r.c.RunDir, "exec", id+"."+execID)
}

// spawn runs f in the background; ctx ends with Run. Outside of Run it returns false and does
// nothing.
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
