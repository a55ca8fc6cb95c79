package fakeruntime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nodeagent/nodeagent/pkg/runtime/logpump/crilog"
)

// Program implements a command. It returns the exit code, soon after ctx ends at the latest.
type Program func(ctx context.Context, p *Process) int

// Process is one run of a program.
type Process struct {
	Args           []string
	Stdin          io.Reader
	Stdout, Stderr io.Writer

	host    *Host
	program Program
	ctx     context.Context
	kill    context.CancelFunc
	killed  atomic.Int64 // the signal
	gone    atomic.Bool  // its exit is to be ignored
	done    chan struct{}

	// fields of a container's main process
	stdin     *stdinPipe
	stdinOnce bool
	fan       *fan
}

func (h *Host) program(args []string) (Program, error) {
	if p := h.Programs[args[0]]; p != nil {
		return p, nil
	}
	if p := builtin(args[0]); p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("exec: %q: executable file not found in $PATH", args[0])
}

func newProcess(ctx context.Context, h *Host, args []string, program Program) *Process {
	p := &Process{Args: args, Stdin: bytes.NewReader(nil), Stdout: io.Discard, Stderr: io.Discard, host: h, program: program, done: make(chan struct{})}
	// The process belongs to the machine: it does not end with the call.
	p.ctx, p.kill = context.WithCancel(context.WithoutCancel(ctx))
	return p
}

// keepOpen sets up the streams of a container's main process.
func (p *Process) keepOpen(stdin, once bool, log *logWriter) {
	p.fan = &fan{clients: map[int]func(bool, []byte){}}
	p.Stdout = fanWriter{p.fan, false, log.stream(crilog.Stdout)}
	p.Stderr = fanWriter{p.fan, true, log.stream(crilog.Stderr)}
	if stdin {
		p.stdin, p.stdinOnce = newStdinPipe(), once
		p.Stdin = p.stdin
	}
}

func (p *Process) start(ended func(code int)) {
	go func() {
		code := p.program(p.ctx, p)
		if s := p.killed.Load(); s != 0 {
			code = 128 + int(s)
		}
		if !p.gone.Load() {
			ended(code)
		}
		close(p.done)
	}()
}

func (p *Process) signal(s syscall.Signal) {
	if p.killed.CompareAndSwap(0, int64(s)) {
		p.kill()
		if p.stdin != nil {
			p.stdin.close()
		}
	}
}

func (p *Process) abandon() {
	p.gone.Store(true)
	p.signal(syscall.SIGKILL)
}

func builtin(name string) Program {
	switch name {
	case "true":
		return func(context.Context, *Process) int { return 0 }
	case "false":
		return func(context.Context, *Process) int { return 1 }
	case "sleep":
		return func(ctx context.Context, p *Process) int { return sleep(ctx, p.Args[1:]) }
	case "echo":
		return func(_ context.Context, p *Process) int {
			_, _ = fmt.Fprintln(p.Stdout, strings.Join(p.Args[1:], " "))
			return 0
		}
	case "cat":
		return cat
	case "sh":
		return shell
	}
	return nil
}

func sleep(ctx context.Context, args []string) int {
	if len(args) != 1 {
		return 1
	}
	seconds, err := strconv.ParseFloat(args[0], 64)
	if err != nil {
		return 1
	}
	timer := time.NewTimer(time.Duration(seconds * float64(time.Second)))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
	return 0
}

func cat(_ context.Context, p *Process) int {
	if _, err := io.Copy(p.Stdout, p.Stdin); err != nil {
		return 1
	}
	return 0
}

// shell runs commands separated by semicolons, and exit.
func shell(ctx context.Context, p *Process) int {
	if len(p.Args) != 3 || p.Args[1] != "-c" {
		return 2
	}
	code := 0
	for line := range strings.SplitSeq(p.Args[2], ";") {
		args := strings.Fields(line)
		if len(args) == 0 || ctx.Err() != nil {
			continue
		}
		if args[0] == "exit" {
			if len(args) > 1 {
				code, _ = strconv.Atoi(args[1])
			}
			return code
		}
		program, err := p.host.program(args)
		if err != nil {
			_, _ = fmt.Fprintln(p.Stderr, "sh:", err)
			code = 127
			continue
		}
		code = program(ctx, &Process{Args: args, Stdin: p.Stdin, Stdout: p.Stdout, Stderr: p.Stderr, host: p.host})
	}
	return code
}

// stdinPipe buffers input until it is read; reads end when it is closed.
type stdinPipe struct {
	mu     sync.Mutex
	cond   *sync.Cond
	buf    bytes.Buffer
	closed bool
}

func newStdinPipe() *stdinPipe {
	s := &stdinPipe{}
	s.cond = sync.NewCond(&s.mu)
	return s
}

func (s *stdinPipe) Read(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.buf.Len() == 0 && !s.closed {
		s.cond.Wait()
	}
	return s.buf.Read(b)
}

func (s *stdinPipe) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, io.ErrClosedPipe
	}
	s.cond.Broadcast()
	return s.buf.Write(b)
}

func (s *stdinPipe) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.cond.Broadcast()
}

// fan copies output to attached clients.
type fan struct {
	mu      sync.Mutex
	next    int
	clients map[int]func(stderr bool, b []byte)
}

func (f *fan) add(client func(stderr bool, b []byte)) (remove func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.next
	f.next++
	f.clients[n] = client
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.clients, n)
	}
}

type fanWriter struct {
	fan    *fan
	stderr bool
	log    io.Writer
}

func (w fanWriter) Write(b []byte) (int, error) {
	n, err := w.log.Write(b)
	w.fan.mu.Lock()
	defer w.fan.mu.Unlock()
	for _, send := range w.fan.clients {
		send(w.stderr, b)
	}
	return n, err
}

// logWriter writes a container's CRI-format log.
type logWriter struct {
	mu   sync.Mutex
	path string
	now  func() time.Time
	file *os.File
}

func newLogWriter(path string, now func() time.Time) (*logWriter, error) {
	if path == "" {
		return &logWriter{}, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	return &logWriter{path: path, now: now, file: f}, err
}

func (l *logWriter) stream(s crilog.Stream) io.Writer {
	return &logStream{log: l, split: crilog.Splitter{Stream: s}}
}

func (l *logWriter) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		_ = l.file.Close()
		l.file = nil
	}
}

func (l *logWriter) remove() error {
	l.close()
	if l.path == "" {
		return nil
	}
	if err := os.Remove(l.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

type logStream struct {
	log   *logWriter
	split crilog.Splitter
}

func (s *logStream) Write(b []byte) (int, error) {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	if s.log.file != nil {
		if _, err := s.log.file.Write(s.split.Split(nil, b, s.log.now())); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}
