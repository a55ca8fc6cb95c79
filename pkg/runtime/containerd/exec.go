package containerd

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/runtime/ocispec"
	"github.com/nodeagent/nodeagent/pkg/sleep"
)

// execSet holds the processes that this agent runs in containers; the zero value is ready.
type execSet struct{ names sync.Map }

func (e *execSet) has(name string) bool { _, ok := e.names.Load(name); return ok }

// Exec runs one process to its end, with the container's environment, working folder, user and
// capabilities. If ctx ends first, it returns ctx's error and kills the process. Cleanup runs in
// the background, so that callers get the exit code without waiting for it.
func (r *Runtime) Exec(ctx context.Context, id string, x runtime.ExecConfig) (int, error) {
	e := &exec{r: r, id: id, execID: randomID(), io: x.IO, gone: x.Gone}
	if e.gone == nil {
		e.gone = func() {}
	}
	name, process, err := r.prepareExec(ctx, id, x)
	if err != nil {
		e.gone()
		return 0, err
	}
	code, err := e.run(ctx, process)
	if ctx.Err() != nil && err != nil && !errors.Is(err, runtime.ErrOutputCut) {
		err = ctx.Err()
	}
	if err != nil {
		return code, fmt.Errorf("running %q in container %q: %w", x.Command, name, err)
	}
	return code, nil
}

// prepareExec returns the container's name and the process to run in it.
func (r *Runtime) prepareExec(ctx context.Context, id string, x runtime.ExecConfig) (string, *specs.Process, error) {
	if err := r.view.wait(ctx); err != nil {
		return "", nil, err
	}
	c, ok := r.view.find(id)
	if !ok {
		return "", nil, fmt.Errorf("running a command in container %.12s: %w", id, runtime.ErrNotFound)
	}
	if c.c.State != runtime.Running {
		return "", nil, fmt.Errorf("running a command in container %q: it is %s, not running", c.c.Name, c.c.State)
	}
	process, err := r.process(ctx, id, x)
	return c.c.Name, process, err
}

func randomID() string {
	b := make([]byte, 16)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// process returns the container's own process with another command.
func (r *Runtime) process(ctx context.Context, id string, x runtime.ExecConfig) (*specs.Process, error) {
	c, _ := r.view.find(id)
	raw := c.process
	if raw == nil {
		record, err := r.store().Get(ctx, id)
		if err != nil {
			return nil, fmt.Errorf("reading the spec of container %.12s: %w", id, native(err))
		}
		spec, err := specOf(record)
		if err != nil {
			return nil, err
		}
		if spec.Process == nil {
			return nil, fmt.Errorf("container %.12s has no process", id)
		}
		if raw, err = json.Marshal(spec.Process); err != nil {
			return nil, err
		}
		r.view.with(id, func(c *container) bool { c.process = raw; return false })
	}
	var p specs.Process
	if err := json.Unmarshal(raw, &p); err != nil {
		return nil, err
	}
	p.Args, p.CommandLine, p.Terminal, p.ConsoleSize = x.Command, "", x.IO.TTY, nil
	if p.Terminal {
		p.Env = ocispec.SetEnv(p.Env, "TERM=xterm")
	}
	return &p, nil
}

// exec is one process being run.
type exec struct {
	r          *Runtime
	id, execID string
	io         runtime.IO
	gone       func()
	paths      [3]string // stdin, stdout, stderr; "" for none
	keepers    []*os.File
	outputs    []*output
	stdin      *os.File
	stopResize context.CancelFunc
	// starting is closed when the shim has answered the start request; nil before that request.
	starting chan struct{}
	startErr error
	answered bool // run saw the answer
}

func (e *exec) run(ctx context.Context, p *specs.Process) (int, error) {
	dir := e.r.execDir(e.id, e.execID)
	e.r.execs.names.Store(filepath.Base(dir), true)
	defer e.cleanUp(ctx, dir)
	if err := e.open(dir); err != nil {
		return 0, err
	}
	spec, err := typeurl.MarshalAnyToProto(p)
	if err != nil {
		return 0, err
	}
	q := &tasksapi.ExecProcessRequest{
		ContainerID: e.id, ExecID: e.execID, Spec: spec, Terminal: e.io.TTY,
		Stdin: e.paths[0], Stdout: e.paths[1], Stderr: e.paths[2],
	}
	e.starting = make(chan struct{})
	go func() {
		defer close(e.starting)
		e.startErr = e.start(context.WithoutCancel(ctx), q)
	}()
	select {
	case <-e.starting:
		e.answered = true
		if e.startErr != nil {
			return 0, e.startErr
		}
	case <-ctx.Done():
		for _, o := range e.outputs {
			o.dropped.Store(true)
		}
		return 0, ctx.Err()
	}
	e.started(ctx)
	resp, err := e.r.tasks().Wait(ctx, &tasksapi.WaitRequest{ContainerID: e.id, ExecID: e.execID})
	if err != nil {
		return 0, native(err)
	}
	return int(resp.ExitStatus), e.finishOutput(ctx)
}

// startTime bounds the start of a process.
const startTime = 2 * time.Minute

// start makes the shim start the process. The caller's deadline must not bound it: the shim would
// kill the OCI runtime half way, and nobody would know of a process it had already made.
func (e *exec) start(ctx context.Context, q *tasksapi.ExecProcessRequest) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	if _, err := e.r.tasks().Exec(ctx, q); err != nil {
		return native(err)
	}
	_, err := e.r.tasks().Start(ctx, &tasksapi.StartRequest{ContainerID: e.id, ExecID: e.execID})
	return native(err)
}

// cleanUp closes the pipes; then, in the background, it deletes the process from the shim and its
// folder from the disk. The folder goes last: by it a later agent finds a process that was left
// running.
func (e *exec) cleanUp(ctx context.Context, dir string) {
	if e.starting == nil {
		e.close(ctx)
		removeExecDir(dir)
		e.r.execs.names.Delete(filepath.Base(dir))
		e.gone()
		return
	}
	if e.answered {
		e.close(ctx)
	}
	clean := func(ctx context.Context) {
		defer e.gone()
		defer e.r.execs.names.Delete(filepath.Base(dir))
		select {
		case <-e.starting:
		case <-ctx.Done():
		}
		// without readers the shim would wait for one, and then forget the process it made
		if !e.answered {
			e.close(ctx)
		}
		if ctx.Err() == nil && e.r.endExec(ctx, e.id, e.execID) {
			removeExecDir(dir)
		}
	}
	if e.r.spawn(clean) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	clean(ctx)
}

// removeExecDir uses no file descriptor: running out of them may be why the command failed.
func removeExecDir(dir string) {
	for _, name := range []string{"stdin", "stdout", "stderr", ""} {
		_ = os.Remove(filepath.Join(dir, name))
	}
}

// endExec kills and deletes a process in whatever state, and reports whether it is gone. It retries
// until ctx ends or containerd is unavailable; the next reconcile handles the rest.
func (r *Runtime) endExec(ctx context.Context, id, execID string) (clean bool) {
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := r.removeExec(ctx, id, execID)
		if err == nil || errors.Is(err, runtime.ErrNotFound) {
			return true
		}
		if errors.Is(err, runtime.ErrUnavailable) || sleep.For(ctx, wait) != nil {
			return false
		}
	}
}

// removeExec tries once: it deletes an exited process, and kills a running one.
func (r *Runtime) removeExec(ctx context.Context, id, execID string) error {
	ctx, cancel := context.WithTimeout(ctx, cleanupTime)
	defer cancel()
	_, err := r.tasks().DeleteProcess(ctx, &tasksapi.DeleteProcessRequest{ContainerID: id, ExecID: execID})
	if err = native(err); err == nil || errors.Is(err, runtime.ErrNotFound) || errors.Is(err, runtime.ErrUnavailable) {
		return err
	}
	_, killed := r.tasks().Kill(ctx, &tasksapi.KillRequest{ContainerID: id, ExecID: execID, Signal: uint32(unix.SIGKILL)})
	if killed = native(killed); errors.Is(killed, runtime.ErrUnavailable) {
		return killed
	}
	return err
}

// sweepExecs kills processes that an earlier agent ran in containers: their callers are gone.
func (r *Runtime) sweepExecs() {
	root := filepath.Join(r.c.RunDir, "exec")
	entries, err := os.ReadDir(root)
	if err != nil {
		return
	}
	for _, e := range entries {
		id, execID, ok := strings.Cut(e.Name(), ".")
		if !ok || r.execs.has(e.Name()) {
			continue
		}
		dir := filepath.Join(root, e.Name())
		r.execs.names.Store(e.Name(), true)
		if !r.spawn(func(ctx context.Context) {
			defer r.execs.names.Delete(filepath.Base(dir))
			if c, ok := r.view.find(id); !ok || c.c.State == runtime.Exited || r.endExec(ctx, id, execID) {
				removeExecDir(dir)
			}
		}) {
			r.execs.names.Delete(e.Name())
		}
	}
}
