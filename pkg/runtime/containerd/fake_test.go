package containerd

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	eventsapi "github.com/containerd/containerd/api/services/events/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	versionapi "github.com/containerd/containerd/api/services/version/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// daemon is a containerd with one container, "c0" of pod "u", and faults that a test sets.
type daemon struct {
	testing.TB
	mu      sync.Mutex
	labels  map[string]string
	task    *tasktypes.Process // nil: none
	full    bool               // nothing can be written
	hidden  int                // so many questions for the task are answered wrongly: there is none
	hung    chan struct{}      // when not nil, no call is answered until it is closed
	frozen  chan struct{}      // when not nil, no change of records is answered until it is closed
	removed int                // how often somebody asked to delete the container
	foreign bool               // CRI runs a pod
	ended   chan struct{}      // closed when the task has ended
	cut     chan struct{}      // a value ends the event stream
	address string
}

func newDaemon(t testing.TB) *daemon {
	d := &daemon{
		TB: t, ended: make(chan struct{}), cut: make(chan struct{}), address: filepath.Join(t.TempDir(), "s"),
		labels: map[string]string{labelUID: "u", labelName: "app", labelAttempt: "0", labelStarted: stamp(time.Now())},
		task:   &tasktypes.Process{ID: "c0", ContainerID: "c0", Pid: 1 << 30, Status: tasktypes.Status_RUNNING},
	}
	l, err := net.Listen("unix", d.address)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		d.mu.Lock()
		hung := d.hung
		d.mu.Unlock()
		if hung != nil {
			select {
			case <-hung:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		return handle(ctx, req)
	}))
	versionapi.RegisterVersionServer(s, versions{})
	containersapi.RegisterContainersServer(s, records{d: d})
	tasksapi.RegisterTasksServer(s, tasks{d: d})
	eventsapi.RegisterEventsServer(s, stream{d: d})
	snapshotsapi.RegisterSnapshotsServer(s, snapshotsapi.UnimplementedSnapshotsServer{})
	go s.Serve(l)
	t.Cleanup(s.Stop)
	return d
}

// with changes the daemon under its lock.
func (d *daemon) with(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

func (d *daemon) label(name string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.labels[name]
}

// runtime starts an agent's runtime on the daemon.
func (d *daemon) runtime(now func() time.Time) *Runtime {
	d.Helper()
	dir := d.TempDir()
	r, err := New(Config{
		Address: d.address, StateDir: dir, RunDir: dir, Network: nothing{}, Pump: nothing{}, Logger: slog.New(slog.DiscardHandler), Now: now,
	})
	if err != nil {
		d.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	d.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				d.Error(err)
			}
		case <-time.After(time.Minute):
			d.Error("Run does not end with its context")
		}
	})
	return r
}

// state is the container's state in the runtime; "" if the runtime does not know it.
func state(r *Runtime) runtime.State {
	p, err := r.Get(context.Background(), "u")
	if err != nil || p.Latest("app") == nil {
		return ""
	}
	return p.Latest("app").State
}

func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for began := time.Now(); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			t.Fatalf("never: %s", what)
		}
	}
}

type versions struct {
	versionapi.UnimplementedVersionServer
}

func (versions) Version(context.Context, *emptypb.Empty) (*versionapi.VersionResponse, error) {
	return &versionapi.VersionResponse{Version: "v2"}, nil
}

type records struct {
	containersapi.UnimplementedContainersServer
	d *daemon
}

func (c records) record() *containersapi.Container {
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	labels := map[string]string{}
	for k, v := range c.d.labels {
		labels[k] = v
	}
	return &containersapi.Container{
		ID: "c0", Labels: labels,
		Spec:    &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Spec", Value: []byte(`{"ociVersion":"1.0"}`)},
		Runtime: &containersapi.Container_Runtime{Name: "x"}, CreatedAt: timestamppb.Now(), UpdatedAt: timestamppb.Now(),
	}
}

func (c records) ListStream(q *containersapi.ListContainersRequest, s containersapi.Containers_ListStreamServer) error {
	c.d.mu.Lock()
	foreign := c.d.foreign
	c.d.mu.Unlock()
	if strings.Contains(q.Filters[0], criKind) {
		if !foreign {
			return nil
		}
		labels := map[string]string{criKind: "sandbox", criUID: "theirs", criNamespace: "shop", criPod: "web-0"}
		return s.Send(&containersapi.ListContainerMessage{Container: &containersapi.Container{ID: "f0", Labels: labels, Runtime: &containersapi.Container_Runtime{Name: "x"}}})
	}
	return s.Send(&containersapi.ListContainerMessage{Container: c.record()})
}

func (c records) Get(_ context.Context, q *containersapi.GetContainerRequest) (*containersapi.GetContainerResponse, error) {
	if q.ID != "c0" {
		return nil, status.Error(codes.NotFound, "container not found")
	}
	return &containersapi.GetContainerResponse{Container: c.record()}, nil
}

func (c records) Update(ctx context.Context, q *containersapi.UpdateContainerRequest) (*containersapi.UpdateContainerResponse, error) {
	c.d.mu.Lock()
	frozen, full := c.d.frozen, c.d.full
	c.d.mu.Unlock()
	if frozen != nil {
		select {
		case <-frozen:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if full {
		return nil, status.Error(codes.Unknown, "write meta.db: no space left on device")
	}
	c.d.with(func() {
		for k, v := range q.Container.Labels {
			c.d.labels[k] = v
		}
	})
	return &containersapi.UpdateContainerResponse{Container: q.Container}, nil
}

func (c records) Delete(context.Context, *containersapi.DeleteContainerRequest) (*emptypb.Empty, error) {
	c.d.with(func() { c.d.removed++ })
	return &emptypb.Empty{}, nil
}

type tasks struct {
	tasksapi.UnimplementedTasksServer
	d *daemon
}

func (t tasks) List(context.Context, *tasksapi.ListTasksRequest) (*tasksapi.ListTasksResponse, error) {
	return &tasksapi.ListTasksResponse{Tasks: []*tasktypes.Process{{ID: "f0", Status: tasktypes.Status_RUNNING}}}, nil
}

func (t tasks) Get(context.Context, *tasksapi.GetRequest) (*tasksapi.GetResponse, error) {
	t.d.mu.Lock()
	defer t.d.mu.Unlock()
	if t.d.hidden > 0 {
		t.d.hidden--
		return nil, status.Error(codes.NotFound, "no running task found")
	}
	if t.d.task == nil {
		return nil, status.Error(codes.NotFound, "no running task found")
	}
	return &tasksapi.GetResponse{Process: t.d.task}, nil
}

func (t tasks) Wait(ctx context.Context, _ *tasksapi.WaitRequest) (*tasksapi.WaitResponse, error) {
	t.d.mu.Lock()
	task := t.d.task
	t.d.mu.Unlock()
	if task == nil {
		return nil, status.Error(codes.NotFound, "no running task found")
	}
	select {
	case <-t.d.ended:
		return &tasksapi.WaitResponse{ExitStatus: 3, ExitedAt: timestamppb.Now()}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (t tasks) Kill(context.Context, *tasksapi.KillRequest) (*emptypb.Empty, error) {
	return nil, status.Error(codes.NotFound, "process already finished")
}

func (t tasks) Delete(context.Context, *tasksapi.DeleteTaskRequest) (*tasksapi.DeleteResponse, error) {
	t.d.mu.Lock()
	defer t.d.mu.Unlock()
	if t.d.task == nil {
		return nil, status.Error(codes.NotFound, "no running task found")
	}
	t.d.task = nil
	return &tasksapi.DeleteResponse{}, nil
}

type stream struct {
	eventsapi.UnimplementedEventsServer
	d *daemon
}

func (e stream) Subscribe(_ *eventsapi.SubscribeRequest, s eventsapi.Events_SubscribeServer) error {
	select {
	case <-s.Context().Done():
		return nil
	case <-e.d.cut:
		return errors.New("cut")
	}
}

// nothing implements the network and the log pump without doing anything.
type nothing struct{}

func (nothing) Setup(context.Context, string, string, runtime.SandboxConfig) ([]netip.Addr, error) {
	return nil, nil
}
func (nothing) Teardown(context.Context, string, string, runtime.SandboxConfig) error { return nil }
func (nothing) Open(context.Context, runtime.Output) error                            { return nil }
func (nothing) Seal(context.Context, string) error                                    { return nil }
func (nothing) Drain(context.Context, string) error                                   { return nil }
func (nothing) Attach(context.Context, string, runtime.IO) error                      { return nil }
func (nothing) Remove(context.Context, runtime.Output) error                          { return nil }
