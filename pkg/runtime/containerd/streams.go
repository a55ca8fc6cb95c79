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
	"time"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/runtime/ocispec"
	"github.com/nodeagent/nodeagent/pkg/sleep"
)

// execSet are the processes that this agent runs in containers; the zero value is ready.
type execSet struct{ names sync.Map }

func (e *execSet) has(name string) bool { _, ok := e.names.Load(name); return ok }

// outputGrace is how long the pipes of an ended process must be empty for its output to be over: a
// child that it left in the background may hold them open for as long as it likes.
const outputGrace = time.Second

// Exec runs one process to its end, as the container's own: its environment, folder, user and
// capabilities. When ctx ends first, ctx's error is returned and the process is killed. What is
// left of the process is removed in the background, so that nobody waits for it who only wants the
// exit code.
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
		return "", nil, fmt.Errorf("running a command in container %q: it is not running but %s", c.c.Name, c.c.State)
	}
	process, err := r.process(ctx, id, x)
	return c.c.Name, process, err
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
	gone       func()
	paths      [3]string // of stdin, stdout, stderr; "" for none
	keepers    []*os.File
	outputs    []*output
	stdin      *os.File
	stopResize context.CancelFunc
	// starting is closed when the shim has answered whether it has started the process; nil while
	// it was not asked.
	starting chan struct{}
	startErr error
	answered bool // run has seen starting closed
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

// start has the shim start the process. The time that the caller has for its command must not bound
// this: the shim would kill the OCI runtime half way, and a process that it has made by then would
// be known to nobody.
func (e *exec) start(ctx context.Context, q *tasksapi.ExecProcessRequest) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	if _, err := e.r.tasks().Exec(ctx, q); err != nil {
		return native(err)
	}
	_, err := e.r.tasks().Start(ctx, &tasksapi.StartRequest{ContainerID: e.id, ExecID: e.execID})
	return native(err)
}

// open makes the pipes. Reading ends need a writer until the shim has opened its own.
func (e *exec) open(dir string) error {
	// the shim wants both outputs, or the one of a terminal
	wanted := [3]bool{e.io.Stdin != nil, true, !e.io.TTY}
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
		// The writer comes before the first read, which without one would find the end of the
		// output.
		keeper, err := os.OpenFile(e.paths[i], os.O_WRONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			_ = f.Close()
			return err
		}
		e.keepers = append(e.keepers, keeper)
		e.outputs = append(e.outputs, startOutput(f, w))
	}
	return nil
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

// finishOutput waits for the end of the output: the pipes have ended, or they stay empty. A client
// that takes its time is waited for until ctx ends.
func (e *exec) finishOutput(ctx context.Context) error {
	look := time.NewTicker(outputGrace)
	defer look.Stop()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for _, o := range e.outputs {
			<-o.done
		}
	}()
	for {
		select {
		case <-ended:
			return e.outputError()
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", runtime.ErrOutputCut, ctx.Err())
		case <-look.C:
		}
		quiet := true
		for _, o := range e.outputs {
			quiet = o.isQuiet() && quiet
		}
		if quiet {
			return e.outputError()
		}
	}
}

// outputError tells of a client that did not take all.
func (e *exec) outputError() error {
	for _, o := range e.outputs {
		if o.isDone() && o.err != nil {
			return fmt.Errorf("%w: %w", runtime.ErrOutputCut, o.err)
		}
	}
	return nil
}

// close lets go of the pipes. When ctx has ended, a copy may be stuck in its client's connection,
// which the caller is about to close; else every copy ends here, so that nothing is written after
// Exec has returned.
func (e *exec) close(ctx context.Context) {
	if e.stopResize != nil {
		e.stopResize()
	}
	for _, k := range e.keepers {
		_ = k.Close()
	}
	if e.stdin != nil {
		_ = e.stdin.Close()
	}
	for _, o := range e.outputs {
		_ = o.pipe.Close()
	}
	for _, o := range e.outputs {
		select {
		case <-o.done:
			continue
		case <-ctx.Done():
		}
		stuck := time.NewTimer(outputGrace)
		select {
		case <-o.done:
		case <-stuck.C:
		}
		stuck.Stop()
	}
}

// cleanUp lets go of the pipes, and removes the process from the shim and its folder from the disk,
// in the background. The folder goes last and only with the process: it is how a later agent finds
// what was left running.
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
		// without readers the shim would wait for one, and then forget the process that it has made
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

// removeExecDir needs no descriptor: having none left may be why the command failed.
func removeExecDir(dir string) {
	for _, name := range []string{"stdin", "stdout", "stderr", ""} {
		_ = os.Remove(filepath.Join(dir, name))
	}
}

// endExec kills and deletes a process, whatever state it is in, and says whether nothing is left of
// it. It tries until ctx ends or containerd does not answer; the next reconcile takes up what is
// left then.
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

// removeExec tries once: a process that runs is killed, one that has ended is deleted.
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
