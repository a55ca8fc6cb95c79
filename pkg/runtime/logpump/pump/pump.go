// Package pump is EDGE: the log pump, the small process between containers and their log files.
// Each agent has one, which outlives it. It reads the pipes that shims write to, writes and rotates
// the CRI-format files, and copies output to attached clients. No other package writes below the
// log folder.
//
// # The life of a stream
//
// The agent creates the FIFO, calls Open, creates and starts the task, and calls Seal. After Seal
// the pump holds no write end; the shim holds the only one and closes it when the container's
// output has ended. Then Drain answers. The pump removes output from a pipe only after writing it
// to the log, so a killed pump loses nothing as long as the shim holds the pipe: the next pump
// opens it again, and may write the last bytes twice.
package pump

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sort"
	"sync"
	"time"

	"github.com/nodeagent/nodeagent/pkg/runtime/logpump/wire"
)

// Pump is the server.
type Pump struct {
	build   string
	now     func() time.Time
	buffers sync.Pool
	tidying chan tidyJob
	quit    context.CancelFunc

	mu         sync.Mutex
	containers map[string]*container
	opening    map[string]*sync.Mutex // serialise opening one container
	pipes      []*peekPipe            // free ones
}

type tidyJob struct {
	path   string
	limits wire.Limits
}

// New returns a pump; build identifies the program to agents that ask.
func New(build string, now func() time.Time) *Pump {
	return &Pump{
		build:      build,
		now:        now,
		buffers:    sync.Pool{New: func() any { return new([readSize]byte) }},
		tidying:    make(chan tidyJob, 64),
		containers: map[string]*container{},
		opening:    map[string]*sync.Mutex{},
	}
}

// Serve answers requests on l until ctx ends or it accepts a Quit.
func (p *Pump) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p.quit = cancel
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	go p.tidyLoop(ctx)
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err != nil {
			continue // out of file descriptors: the next connection may succeed
		}
		go p.serve(ctx, conn)
	}
}

// tidyLoop compresses one file at a time, because compression is the only thing here that needs
// memory.
func (p *Pump) tidyLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case job := <-p.tidying:
			compressOlder(job.path, job.limits)
		}
	}
}

func (p *Pump) tidy(path string, limits wire.Limits) {
	select {
	case p.tidying <- tidyJob{path, limits}:
	default: // the next rotation will do it
	}
}

func (p *Pump) serve(ctx context.Context, conn net.Conn) {
	defer func() { _ = conn.Close() }()
	var q wire.Request
	if err := json.NewDecoder(conn).Decode(&q); err != nil {
		return
	}
	answer := p.answer(ctx, q)
	if q.Op == wire.Attach && answer.Error == "" {
		p.attach(conn, q)
		return
	}
	if reply(conn, answer) != nil {
		return
	}
	switch q.Op {
	case wire.Watch:
		var b [1]byte
		_, _ = conn.Read(b[:]) // until the agent disconnects
	case wire.Quit:
		if answer.Error == "" {
			p.quit()
		}
	}
}

func reply(conn net.Conn, r wire.Response) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = conn.Write(append(b, '\n'))
	return err
}

func (p *Pump) answer(ctx context.Context, q wire.Request) wire.Response {
	switch q.Op {
	case wire.Hello, wire.Watch:
		return wire.Response{Version: wire.Version, Build: p.build, Pid: os.Getpid(), Containers: p.ids()}
	case wire.Open:
		return failure(p.open(q))
	case wire.Quit:
		if n := len(p.ids()); n > 0 {
			return failure(fmt.Errorf("%d containers are open", n))
		}
		return wire.Response{}
	}
	c := p.find(q.ID)
	if c == nil {
		return wire.Response{Error: fmt.Sprintf("container %.12s is not open", q.ID), NotFound: true}
	}
	switch q.Op {
	case wire.Seal:
		c.seal()
	case wire.Drain:
		select {
		case <-c.ended:
		case <-ctx.Done():
		}
	case wire.Close:
		p.mu.Lock()
		delete(p.containers, q.ID)
		delete(p.opening, q.ID)
		p.mu.Unlock()
		c.close()
	case wire.Attach:
	default:
		return failure(fmt.Errorf("unknown operation %q", q.Op))
	}
	return wire.Response{}
}

func failure(err error) wire.Response {
	if err == nil {
		return wire.Response{}
	}
	return wire.Response{Error: err.Error()}
}

func (p *Pump) find(id string) *container {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.containers[id]
}

func (p *Pump) ids() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	ids := make([]string, 0, len(p.containers))
	for id := range p.containers {
		ids = append(ids, id)
	}
	sort.Strings(ids)
	return ids
}

// open opens a container's streams. A container that is already open stays as it is.
func (p *Pump) open(q wire.Request) error {
	if q.Output == nil || q.Output.ID == "" || q.Output.LogPath == "" {
		return errors.New("an output needs an id and a log path")
	}
	limits := wire.Limits{MaxSize: 10 << 20, MaxFiles: 5} // kubelet's defaults
	if q.Limits != nil {
		limits = *q.Limits
	}
	if limits.MaxSize < 1 || limits.MaxFiles < 2 {
		return fmt.Errorf("limits %+v: at least 1 byte and 2 files", limits)
	}
	// The pump's lock is never held during file operations: one hung folder must not block other
	// containers.
	defer p.lockOpening(q.Output.ID)()
	if c := p.find(q.Output.ID); c != nil && (q.Output.Sealed || !c.isEnded()) {
		if q.Output.Sealed {
			c.seal()
		}
		return nil
	}
	c, err := newContainer(p, *q.Output, limits)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.containers[q.Output.ID] = c
	return nil
}

func (p *Pump) lockOpening(id string) (unlock func()) {
	p.mu.Lock()
	l := p.opening[id]
	if l == nil {
		l = &sync.Mutex{}
		p.opening[id] = l
	}
	p.mu.Unlock()
	l.Lock()
	return l.Unlock
}
