// Package logpump is EDGE: the agent's side of the log pump. It starts the pump, keeps it running,
// lets it connect containers' streams to log files, and reads those files. The pump itself is
// package pump, a separate process (cmd/nodeagent-pump) that outlives the agent.
package logpump

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/runtime/logpump/logdir"
	"github.com/nodeagent/nodeagent/pkg/runtime/logpump/wire"
)

// Config configures a Client.
type Config struct {
	// Program is the path of nodeagent-pump.
	Program string
	// Socket is the path of the pump's socket. By it an agent finds the pump of its predecessor.
	Socket string
	// Build, if not "", is the build of Program. A pump of another build is replaced once it serves
	// no container.
	Build string
	// MaxSize (bytes) and MaxFiles are kubelet's containerLogMaxSize and containerLogMaxFiles.
	MaxSize  int64
	MaxFiles int
	// Place, if not nil, is called with each pump that is found or started. It moves the process to
	// where it outlives the agent.
	Place  func(ctx context.Context, pid int) error
	Logger *slog.Logger
}

// Client talks to the pump. Its methods start the pump if none runs.
type Client struct {
	c Config

	starting sync.Mutex
	mu       sync.Mutex
	open     map[string]*held // to be opened again after a restart of the pump
}

// held is a container whose output is not complete. The agent holds the reading ends of its pipes
// open without reading, so that data stays in the pipes if the container ends while no pump runs.
// They are bare file descriptors: os.Files would wake the agent with every line.
type held struct {
	out    runtime.Output
	pipes  []int
	failed bool // the pump could not open it; retried periodically
}

func hold(out runtime.Output) *held {
	h := &held{out: out}
	for _, path := range []string{out.Stdout, out.Stderr} {
		if path == "" {
			continue
		}
		if fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0); err == nil {
			h.pipes = append(h.pipes, fd)
		}
	}
	return h
}

func (h *held) release() {
	for _, fd := range h.pipes {
		_ = syscall.Close(fd)
	}
	h.pipes = nil
}

// New checks the configuration.
func New(c Config) (*Client, error) {
	if c.Program == "" || c.Socket == "" || c.Logger == nil {
		return nil, errors.New("log pump: program, socket and logger are required")
	}
	if c.MaxSize < 1 || c.MaxFiles < 2 {
		return nil, fmt.Errorf("log pump: containerLogMaxSize %d and containerLogMaxFiles %d: at least 1 byte and 2 files", c.MaxSize, c.MaxFiles)
	}
	return &Client{c: c, open: map[string]*held{}}, nil
}

// Run keeps a pump running until ctx ends. The pump runs on.
func (c *Client) Run(ctx context.Context) error {
	for first := true; ctx.Err() == nil; first = false {
		if err := c.watch(ctx, first); err != nil && ctx.Err() == nil {
			c.c.Logger.Warn("Log pump ended, starting it again", "err", err)
			again := time.NewTimer(50 * time.Millisecond)
			select {
			case <-ctx.Done():
			case <-again.C:
			}
			again.Stop()
		}
	}
	return nil
}

// watch returns when the pump has ended.
func (c *Client) watch(ctx context.Context, first bool) error {
	if first {
		c.replaceIdle(ctx)
	}
	conn, hello, err := c.ask(ctx, wire.Request{Op: wire.Watch})
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if c.c.Place != nil {
		placing, cancel := context.WithTimeout(ctx, requestTime)
		if err := c.c.Place(placing, hello.Pid); err != nil {
			c.c.Logger.Warn("Log pump may be killed when the agent's unit stops; set KillMode=process in the unit", "pid", hello.Pid, "err", err)
		}
		cancel()
	}
	gone := make(chan struct{})
	var retries sync.WaitGroup
	defer retries.Wait()
	defer close(gone)
	retries.Go(func() { c.retry(ctx, gone) })
	c.c.Logger.Info("Log pump is running", "pid", hello.Pid, "build", hello.Build, "containers", len(hello.Containers))
	_, err = conn.Read(make([]byte, 1))
	return err
}

// retryTime is how often to retry a container that the pump could not open.
const retryTime = 2 * time.Second

// retry opens what could not be opened before, until the pump ends: a container whose output nobody
// reads blocks once its pipe is full.
func (c *Client) retry(ctx context.Context, gone <-chan struct{}) {
	tick := time.NewTicker(retryTime)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-gone:
			return
		case <-tick.C:
		}
		c.mu.Lock()
		var failed []runtime.Output
		for _, h := range c.open {
			if h.failed {
				failed = append(failed, h.out)
			}
		}
		c.mu.Unlock()
		for _, out := range failed {
			if err := c.join(ctx, out); err == nil {
				c.c.Logger.Info("Container's log continues", "container", out.ID)
			}
		}
	}
}

// requestTime bounds requests that the pump answers at once.
const requestTime = 10 * time.Second

// join makes the pump open a container's streams, and remembers whether it did.
func (c *Client) join(ctx context.Context, out runtime.Output) error {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	err := c.do(ctx, wire.Request{Op: wire.Open, Output: &out})
	c.mark(out.ID, err != nil)
	return err
}

func (c *Client) mark(id string, failed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h := c.open[id]; h != nil {
		h.failed = failed
	}
}

// replaceIdle ends a pump of another build unless it serves containers: it speaks the same
// protocol.
func (c *Client) replaceIdle(ctx context.Context) {
	conn, hello, err := c.ask(ctx, wire.Request{Op: wire.Hello})
	if err != nil {
		return
	}
	_ = conn.Close()
	if c.c.Build == "" || hello.Build == c.c.Build || len(hello.Containers) > 0 {
		return
	}
	if conn, _, err := c.ask(ctx, wire.Request{Op: wire.Quit}); err == nil {
		_, _ = conn.Read(make([]byte, 1)) // until it has ended
		_ = conn.Close()
	}
}

// Open connects the streams of a container to its log; see runtime.Output.
func (c *Client) Open(ctx context.Context, out runtime.Output) error {
	c.mu.Lock()
	if h := c.open[out.ID]; h != nil {
		h.out.Sealed = h.out.Sealed || out.Sealed
	} else {
		c.open[out.ID] = hold(out)
	}
	c.mu.Unlock()
	if err := c.join(ctx, out); err != nil {
		return fmt.Errorf("opening streams of container %.12s: %w", out.ID, err)
	}
	return nil
}

// Seal says that the container's task runs, so that its output ends when its pipes do.
func (c *Client) Seal(ctx context.Context, id string) error {
	c.mu.Lock()
	if h := c.open[id]; h != nil {
		h.out.Sealed = true
	}
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	return c.do(ctx, wire.Request{Op: wire.Seal, ID: id})
}

// Drain returns once all output of an exited container is in its log, or at once for an unknown
// container. A pump that was just started learns of the container first.
func (c *Client) Drain(ctx context.Context, id string) error {
	err := c.do(ctx, wire.Request{Op: wire.Drain, ID: id})
	if errors.Is(err, runtime.ErrNotFound) {
		c.mu.Lock()
		h := c.open[id]
		var out runtime.Output
		if h != nil {
			out = h.out
		}
		c.mu.Unlock()
		if h == nil {
			return nil
		}
		if err = c.do(ctx, wire.Request{Op: wire.Open, Output: &out}); err == nil {
			err = c.do(ctx, wire.Request{Op: wire.Drain, ID: id})
		}
	}
	if err == nil {
		c.forget(id)
	}
	return err
}

func (c *Client) forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h := c.open[id]; h != nil {
		h.release()
		delete(c.open, id)
	}
}

// Remove closes the container's streams and deletes its log, the rotated files and the link.
func (c *Client) Remove(ctx context.Context, out runtime.Output) error {
	c.forget(out.ID)
	if err := c.do(ctx, wire.Request{Op: wire.Close, ID: out.ID}); err != nil && !errors.Is(err, runtime.ErrNotFound) {
		return err
	}
	if out.LinkPath != "" {
		if to, err := os.Readlink(out.LinkPath); err == nil && to == out.LogPath {
			_ = os.Remove(out.LinkPath)
		}
	}
	return logdir.Remove(out.LogPath)
}

func (c *Client) do(ctx context.Context, q wire.Request) error {
	conn, _, err := c.ask(ctx, q)
	if err == nil {
		_ = conn.Close()
	}
	return err
}

// ask sends one request, starting the pump if necessary. The connection stays open for what follows
// the response.
func (c *Client) ask(ctx context.Context, q wire.Request) (net.Conn, wire.Response, error) {
	conn, r, err := c.askOnce(ctx, q)
	if !gone(err) || ctx.Err() != nil {
		return conn, r, err
	}
	if err := c.start(ctx); err != nil {
		return nil, wire.Response{}, err
	}
	return c.askOnce(ctx, q)
}

// gone reports whether nobody answers on the socket.
func gone(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, syscall.EPIPE) || errors.Is(err, io.EOF)
}

func (c *Client) askOnce(ctx context.Context, q wire.Request) (_ net.Conn, r wire.Response, err error) {
	if q.Op == wire.Open {
		q.Limits = &wire.Limits{MaxSize: c.c.MaxSize, MaxFiles: c.c.MaxFiles}
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", c.c.Socket)
	if err != nil {
		return nil, r, fmt.Errorf("reaching the log pump: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		stop()
		if err != nil {
			_ = conn.Close()
		}
	}()
	b, err := json.Marshal(q)
	if err != nil {
		return nil, r, err
	}
	if _, err := conn.Write(append(b, '\n')); err != nil {
		return nil, r, fmt.Errorf("asking the log pump: %w", err)
	}
	line, err := readLine(conn)
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, r, fmt.Errorf("asking the log pump: %w", err)
	}
	if err := json.Unmarshal(line, &r); err != nil {
		return nil, r, fmt.Errorf("reading the log pump's answer: %w", err)
	}
	if r.NotFound {
		return nil, r, fmt.Errorf("log pump: %s: %w", r.Error, runtime.ErrNotFound)
	}
	if r.Error != "" {
		return nil, r, fmt.Errorf("log pump: %s", r.Error)
	}
	return conn, r, nil
}

// readLine reads no byte beyond the line: frames may follow. Responses are short, so reading byte
// by byte is good enough.
func readLine(conn net.Conn) ([]byte, error) {
	var line []byte
	b := make([]byte, 1)
	for len(line) < 1<<20 {
		if _, err := conn.Read(b); err != nil {
			return nil, err
		}
		if b[0] == '\n' {
			return line, nil
		}
		line = append(line, b[0])
	}
	return nil, wire.ErrFrame
}

// start starts the pump and tells it the containers of its predecessor.
func (c *Client) start(ctx context.Context) error {
	c.starting.Lock()
	defer c.starting.Unlock()
	if conn, _, err := c.askOnce(ctx, wire.Request{Op: wire.Hello}); err == nil {
		return conn.Close() // another process started it
	}
	if err := os.MkdirAll(filepath.Dir(c.c.Socket), 0o711); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, c.c.Program, "logs", "--socket", c.c.Socket).CombinedOutput()
	if err != nil {
		return fmt.Errorf("starting the log pump %q: %w: %s", c.c.Program, err, out)
	}
	c.mu.Lock()
	known := make([]runtime.Output, 0, len(c.open))
	for _, h := range c.open {
		known = append(known, h.out)
	}
	c.mu.Unlock()
	for _, o := range known {
		conn, _, err := c.askOnce(ctx, wire.Request{Op: wire.Open, Output: &o})
		c.mark(o.ID, err != nil)
		if err != nil {
			c.c.Logger.Warn("Container's log cannot be continued", "container", o.ID, "err", err)
			continue
		}
		_ = conn.Close()
	}
	return nil
}
