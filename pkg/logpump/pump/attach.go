package pump

import (
	"net"
	"sync"

	"github.com/nodeagent/nodeagent/pkg/logpump/wire"
)

// maxBacklog is how many bytes a client may be behind before it is let go. The container is never held up for a client.
const maxBacklog = 4 << 20

// client is one attached connection. Frames are queued by the streams and written by the connection's own goroutine.
type client struct {
	mu     sync.Mutex
	queue  []frame
	bytes  int
	closed bool
	wake   chan struct{}
}

type frame struct {
	kind wire.Kind
	data []byte
}

func newClient() *client { return &client{wake: make(chan struct{}, 1)} }

func (c *client) send(kind wire.Kind, data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	if c.bytes+len(data) > maxBacklog {
		c.queue, c.closed = append(c.queue[:0], frame{kind: wire.FrameLost}), true
	} else {
		c.queue = append(c.queue, frame{kind, append([]byte(nil), data...)})
		c.bytes += len(data)
	}
	c.poke()
}

func (c *client) finish(kind wire.Kind) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.queue, c.closed = append(c.queue, frame{kind: kind}), true
	}
	c.poke()
}

func (c *client) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// next takes what waits; done says that nothing more will come.
func (c *client) next() (frames []frame, done bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	frames, c.queue, c.bytes = c.queue, nil, 0
	return frames, c.closed
}

// attach copies between a connection and the container until either ends.
func (p *Pump) attach(conn net.Conn, q wire.Request) {
	c := p.find(q.ID)
	if c == nil {
		_ = reply(conn, wire.Response{Error: "container is gone", NotFound: true})
		return
	}
	cl := newClient()
	c.mu.Lock()
	if c.isEnded() {
		cl.finish(wire.FrameEnd)
	} else {
		c.clients[cl] = struct{}{}
	}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.clients, cl)
		c.mu.Unlock()
	}()
	if reply(conn, wire.Response{}) != nil {
		return
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		receive(conn, c, q.Stdin)
	}()
	for {
		select {
		case <-gone:
			return
		case <-cl.wake:
		}
		frames, done := cl.next()
		for _, f := range frames {
			if wire.WriteFrame(conn, f.kind, f.data) != nil {
				return
			}
		}
		if done {
			return
		}
	}
}

// receive hands the client's input to the container, until the client goes.
func receive(conn net.Conn, c *container, stdin bool) {
	buf := make([]byte, wire.MaxFrame)
	ended := !stdin
	for {
		kind, data, err := wire.ReadFrame(conn, buf)
		if err != nil {
			break
		}
		switch {
		case kind == wire.FrameStdin && !ended:
			if c.writeStdin(data) != nil {
				ended = true
			}
		case kind == wire.FrameStdinEnd && !ended:
			ended = true
			c.endStdin()
		}
	}
	if !ended {
		c.endStdin()
	}
}
