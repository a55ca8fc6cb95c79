package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/nodeagent/nodeagent/test/bed/uml/wire"
)

// serve accepts commands until ctx ends.
func serve(ctx context.Context, token string) error {
	if token == "" {
		return errors.New("serving commands: no bed.token on the kernel's command line")
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp4", fmt.Sprintf(":%d", wire.Port))
	if err != nil {
		return fmt.Errorf("listening for commands: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accepting a connection: %w", err)
		}
		go func() {
			defer func() { _ = c.Close() }()
			answer(ctx, c, token)
		}()
	}
}

func answer(ctx context.Context, c net.Conn, token string) {
	q, err := wire.ReadRequest(c)
	if err != nil {
		return
	}
	out := &frames{w: c}
	if q.Token != token {
		out.send(wire.KindFailure, []byte("wrong token"))
		return
	}
	code, err := runCommand(ctx, q, c, out)
	if err != nil {
		out.send(wire.KindFailure, []byte(err.Error()))
		return
	}
	out.send(wire.KindExit, wire.ExitCode(code))
}

// runCommand runs one command in its own process group. The connection's reader notices when the
// caller hangs up.
func runCommand(ctx context.Context, q wire.Request, in io.Reader, out *frames) (int, error) {
	cmd := exec.CommandContext(ctx, q.Args[0], q.Args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Env = append(os.Environ(), q.Env...)
	cmd.Dir = q.Dir
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return 0, fmt.Errorf("making stdin: %w", err)
	}
	cmd.Stdout, cmd.Stderr = out.writer(wire.KindStdout), out.writer(wire.KindStderr)
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("starting %q: %w", q.Args[0], err)
	}
	var over atomic.Bool
	go func() {
		for {
			k, b, err := wire.Read(in)
			// the caller has hung up, or the command has ended and the connection is closed
			if err != nil {
				if !over.Load() {
					_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
				}
				return
			}
			if k == wire.KindStdin && len(b) > 0 {
				_, _ = stdin.Write(b)
			} else {
				_ = stdin.Close()
			}
		}
	}()
	err = cmd.Wait()
	over.Store(true)
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return 128 + int(ws.Signal()), nil
		}
		return exit.ExitCode(), nil
	case err != nil:
		return 0, fmt.Errorf("running %q: %w", q.Args[0], err)
	}
	return 0, nil
}

// frames serializes the frames of a command's two outputs onto one connection.
type frames struct {
	mu sync.Mutex
	w  io.Writer
}

func (f *frames) send(k wire.Kind, b []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_ = wire.Write(f.w, k, b) // a caller that has gone is noticed by the reader
}

func (f *frames) writer(k wire.Kind) io.Writer {
	return writerFunc(func(b []byte) (int, error) {
		for i := 0; i < len(b); i += wire.MaxFrame {
			f.send(k, b[i:min(i+wire.MaxFrame, len(b))])
		}
		return len(b), nil
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
