package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// output copies one output pipe of a process to its writer.
type output struct {
	pipe *os.File
	to   io.Writer
	done chan struct{}
	err  error // of the writer; read it after done is closed

	dropped atomic.Bool  // discard what is read: the caller has gone
	waiting atomic.Bool  // the copy is blocked on the pipe, not on the writer
	reads   atomic.Int64 // how many reads have returned
	seen    int64        // reads at the last call of isQuiet
}

func startOutput(pipe *os.File, to io.Writer) *output {
	if to == nil {
		to = io.Discard
	}
	o := &output{pipe: pipe, to: to, done: make(chan struct{}), seen: -1}
	go o.copy()
	return o
}

func (o *output) copy() {
	defer close(o.done)
	buf := make([]byte, 32<<10)
	for {
		o.waiting.Store(true)
		n, err := o.pipe.Read(buf)
		o.waiting.Store(false)
		o.reads.Add(1)
		if n > 0 && !o.dropped.Load() {
			if _, o.err = o.to.Write(buf[:n]); o.err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (o *output) isDone() bool {
	select {
	case <-o.done:
		return true
	default:
		return false
	}
}

// isQuiet reports whether the pipe has been empty since the last call. A slow writer does not make
// the pipe quiet.
func (o *output) isQuiet() bool {
	if o.isDone() {
		return true
	}
	waiting, reads := o.waiting.Load(), o.reads.Load()
	quiet := waiting && reads == o.seen && o.isEmpty()
	o.seen = reads
	return quiet
}

func (o *output) isEmpty() bool {
	raw, err := o.pipe.SyscallConn()
	if err != nil {
		return true
	}
	left := 0
	err = raw.Control(func(fd uintptr) { left, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	return err != nil || left == 0
}

// outputGrace is how long the pipes of an exited process must stay empty for its output to be
// complete: a child left in the background may hold them open for ever.
const outputGrace = time.Second

// open creates the pipes. A reading end needs a writer until the shim has opened its own.
func (e *exec) open(dir string) error {
	// the shim requires both outputs, or one for a terminal
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
		// Open a writer before the first read, which would return EOF without one.
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

// started hands the pipes to the running process: input and terminal sizes may flow.
func (e *exec) started(ctx context.Context) {
	for _, k := range e.keepers {
		_ = k.Close()
	}
	e.keepers = nil
	if e.stdin != nil {
		// Reading the source may block for ever; the copy ends with the source or the pipe.
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

// closeStdin makes the shim close its writing end of stdin, which would keep the process's input
// open.
func (r *Runtime) closeStdin(ctx context.Context, id, execID string) {
	_, err := r.tasks().CloseIO(ctx, &tasksapi.CloseIORequest{ContainerID: id, ExecID: execID, Stdin: true})
	if err != nil && ctx.Err() == nil && !errors.Is(native(err), runtime.ErrNotFound) {
		r.c.Logger.Debug("Container's stdin cannot be closed", "container", id, "err", err)
	}
}

// resize passes terminal sizes on until the channel is closed or ctx ends.
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
		r.c.Logger.Debug("Container's terminal cannot be resized", "container", id, "err", err)
	}
}

// finishOutput waits until the pipes have ended or stay empty. It waits for a slow client until ctx
// ends.
func (e *exec) finishOutput(ctx context.Context) error {
	tick := time.NewTicker(outputGrace)
	defer tick.Stop()
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
		case <-tick.C:
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

// outputError returns an error if a client did not take all output.
func (e *exec) outputError() error {
	for _, o := range e.outputs {
		if o.isDone() && o.err != nil {
			return fmt.Errorf("%w: %w", runtime.ErrOutputCut, o.err)
		}
	}
	return nil
}

// close closes the pipes and waits for the copies, so that nothing is written after Exec returns.
// If ctx has ended, a copy may be stuck in its client's connection, which the caller is about to
// close; then it waits only outputGrace.
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
