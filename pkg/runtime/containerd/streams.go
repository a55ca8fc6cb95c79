package containerd

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/runtime/ocispec"
)

// execSet are the processes that this agent runs in containers; the zero value is ready.
type execSet struct{ names sync.Map }

func (e *execSet) has(name string) bool { _, ok := e.names.Load(name); return ok }

// outputGrace is how long the output of an ended process is waited for without a byte of it coming: a child that it left in
// the background may hold the pipe open for as long as it likes.
const outputGrace = time.Second

// Exec runs one process to its end, as the container's own: its environment, folder, user and capabilities. When ctx ends
// first, the process is killed and removed, and ctx's error is returned.
func (r *Runtime) Exec(ctx context.Context, id string, x runtime.ExecConfig) (int, error) {
	if err := r.view.wait(ctx); err != nil {
		return 0, err
	}
	c, ok := r.view.find(id)
	if !ok {
		return 0, fmt.Errorf("running a command in container %.12s: %w", id, runtime.ErrNotFound)
	}
	if c.c.State != runtime.Running {
		return 0, fmt.Errorf("running a command in container %q: it is not running but %s", c.c.Name, c.c.State)
	}
	process, err := r.process(ctx, id, x)
	if err != nil {
		return 0, err
	}
	e := &exec{r: r, id: id, execID: randomID(), io: x.IO}
	code, err := e.run(ctx, process)
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		return 0, fmt.Errorf("running %q in container %q: %w", x.Command, c.c.Name, err)
	}
	return code, nil
}

func randomID() string {
	b := make([]byte, 16)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// process is the container's own, with another command.
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

// exec is one process on its way.
type exec struct {
	r          *Runtime
	id, execID string
	io         runtime.IO
	paths      [3]string // of stdin, stdout, stderr; "" for none
	keepers    []*os.File
	copies     sync.WaitGroup
	outputs    []*os.File
	stdin      *os.File
	copied     atomic.Int64
	stopResize context.CancelFunc
}

func (e *exec) run(ctx context.Context, p *specs.Process) (int, error) {
	dir := e.r.execDir(e.id, e.execID)
	name := filepath.Base(dir)
	e.r.execs.names.Store(name, true)
	defer e.r.execs.names.Delete(name)
	defer func() { _ = os.RemoveAll(dir) }()
	if err := e.open(dir); err != nil {
		return 0, err
	}
	defer e.close()
	spec, err := typeurl.MarshalAnyToProto(p)
	if err != nil {
		return 0, err
	}
	_, err = e.r.tasks().Exec(ctx, &tasksapi.ExecProcessRequest{
		ContainerID: e.id, ExecID: e.execID, Spec: spec, Terminal: e.io.TTY,
		Stdin: e.paths[0], Stdout: e.paths[1], Stderr: e.paths[2],
	})
	if err != nil {
		return 0, native(err)
	}
	// From here on the shim knows the process, and it is always killed and deleted.
	defer e.r.endExec(context.WithoutCancel(ctx), e.id, e.execID)
	if _, err := e.r.tasks().Start(ctx, &tasksapi.StartRequest{ContainerID: e.id, ExecID: e.execID}); err != nil {
		return 0, native(err)
	}
	e.started(ctx)
	resp, err := e.r.tasks().Wait(ctx, &tasksapi.WaitRequest{ContainerID: e.id, ExecID: e.execID})
	if err != nil {
		return 0, native(err)
	}
	e.finishOutput(ctx)
	return int(resp.ExitStatus), nil
}

// open makes the pipes. Reading ends need a writer until the shim has opened its own.
func (e *exec) open(dir string) error {
	wanted := [3]bool{e.io.Stdin != nil, true, !e.io.TTY} // the shim wants both outputs, or the one of a terminal
	for i, name := range []string{"stdin", "stdout", "stderr"} {
		if wanted[i] {
			e.paths[i] = filepath.Join(dir, name)
		}
	}
	if err := makeFIFOs(dir, e.paths[:]...); err != nil {
		return err
	}
	for i, w := range []io.Writer{nil, e.io.Stdout, e.io.Stderr} {
		if e.paths[i] == "" {
			continue
		}
		if i == 0 {
			f, err := os.OpenFile(e.paths[0], os.O_RDWR|unix.O_NONBLOCK, 0)
			if err != nil {
				return err
			}
			e.stdin = f
			continue
		}
		f, err := os.OpenFile(e.paths[i], os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		e.outputs = append(e.outputs, f)
		keeper, err := os.OpenFile(e.paths[i], os.O_WRONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		e.keepers = append(e.keepers, keeper)
		if w == nil {
			w = io.Discard
		}
		e.copies.Go(func() { _, _ = io.Copy(countingWriter{w, &e.copied}, f) })
	}
	return nil
}

type countingWriter struct {
	io.Writer
	n *atomic.Int64
}

func (c countingWriter) Write(b []byte) (int, error) {
	n, err := c.Writer.Write(b)
	c.n.Add(int64(n))
	return n, err
}

// started is when the process runs: the shim has the pipes, input and terminal sizes may flow.
func (e *exec) started(ctx context.Context) {
	for _, k := range e.keepers {
		_ = k.Close()
	}
	e.keepers = nil
	if e.stdin != nil {
		// The source may block for ever; it ends with the source or with the pipe.
		stdin := e.stdin
		go func() {
			_, _ = io.Copy(stdin, e.io.Stdin)
			_ = stdin.Close()
			e.r.closeStdin(ctx, e.id, e.execID)
		}()
	}
	if e.io.TTY && e.io.Resize != nil {
		ctx, cancel := context.WithCancel(ctx)
		e.stopResize = cancel
		go e.resize(ctx)
	}
}

// closeStdin has the shim let go of its own writing end, which keeps a process's input open.
func (r *Runtime) closeStdin(ctx context.Context, id, execID string) {
	_, err := r.tasks().CloseIO(ctx, &tasksapi.CloseIORequest{ContainerID: id, ExecID: execID, Stdin: true})
	if err != nil && ctx.Err() == nil && !errors.Is(native(err), runtime.ErrNotFound) {
		r.c.Logger.Debug("input cannot be closed", "container", id, "err", err)
	}
}

// resize hands on terminal sizes until the sender closes the channel or ctx ends.
func (e *exec) resize(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case size, ok := <-e.io.Resize:
			if !ok {
				return
			}
			e.r.resizePty(ctx, e.id, e.execID, size)
		}
	}
}

func (r *Runtime) resizePty(ctx context.Context, id, execID string, size runtime.TerminalSize) {
	if size.Width == 0 || size.Height == 0 {
		return
	}
	_, err := r.tasks().ResizePty(ctx, &tasksapi.ResizePtyRequest{
		ContainerID: id, ExecID: execID, Width: uint32(size.Width), Height: uint32(size.Height),
	})
	if err != nil && ctx.Err() == nil && !errors.Is(native(err), runtime.ErrNotFound) {
		r.c.Logger.Debug("terminal cannot be resized", "container", id, "err", err)
	}
}

// finishOutput waits for the end of the output, or for it to stand still.
func (e *exec) finishOutput(ctx context.Context) {
	done := make(chan struct{})
	go func() { e.copies.Wait(); close(done) }()
	for last := int64(-1); ; {
		now := e.copied.Load()
		if now == last {
			break
		}
		last = now
		grace := time.NewTimer(outputGrace)
		select {
		case <-done:
		case <-ctx.Done():
		case <-grace.C:
			continue
		}
		grace.Stop()
		return
	}
}

func (e *exec) close() {
	if e.stopResize != nil {
		e.stopResize()
	}
	for _, f := range append(e.keepers, e.outputs...) {
		_ = f.Close()
	}
	if e.stdin != nil {
		_ = e.stdin.Close()
	}
	e.copies.Wait()
}

// endExec kills and deletes a process, whatever state it is in.
func (r *Runtime) endExec(ctx context.Context, id, execID string) {
	ctx, cancel := context.WithTimeout(ctx, cleanupTime)
	defer cancel()
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		_, err := r.tasks().DeleteProcess(ctx, &tasksapi.DeleteProcessRequest{ContainerID: id, ExecID: execID})
		if err = native(err); err == nil || errors.Is(err, runtime.ErrNotFound) || ctx.Err() != nil {
			return
		}
		_, err = r.tasks().Kill(ctx, &tasksapi.KillRequest{ContainerID: id, ExecID: execID, Signal: uint32(unix.SIGKILL)})
		if err = native(err); err != nil && (errors.Is(err, runtime.ErrUnavailable) || ctx.Err() != nil) {
			return // the next reconcile sweeps
		}
		if pause(ctx, wait) != nil {
			return
		}
	}
}

// Attach joins the container's main process until its output ends or ctx does.
func (r *Runtime) Attach(ctx context.Context, id string, streams runtime.IO) error {
	if err := r.view.wait(ctx); err != nil {
		return err
	}
	c, ok := r.view.find(id)
	if !ok {
		return fmt.Errorf("attaching to container %.12s: %w", id, runtime.ErrNotFound)
	}
	if c.c.State != runtime.Running {
		return fmt.Errorf("attaching to container %q: it is not running but %s", c.c.Name, c.c.State)
	}
	if !c.streams.Stdin {
		streams.Stdin = nil
	}
	if streams.Stdin != nil && c.streams.StdinOnce {
		streams.Stdin = &endReader{streams.Stdin, func() { r.closeStdin(ctx, id, "") }}
	}
	if c.streams.TTY && streams.Resize != nil {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		e := &exec{r: r, id: id, io: streams}
		go e.resize(ctx)
	}
	return r.c.Pump.Attach(ctx, id, streams)
}

// endReader tells when its source has ended.
type endReader struct {
	io.Reader
	ended func()
}

func (e *endReader) Read(b []byte) (int, error) {
	n, err := e.Reader.Read(b)
	if err != nil && e.ended != nil {
		e.ended()
		e.ended = nil
	}
	return n, err
}
