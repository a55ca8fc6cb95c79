package pump

import (
	"net"
	"sync"
	"time"

	"github.com/nodeagent/nodeagent/pkg/runtime/logpump/wire"
)

// maxBacklog is how many bytes a client may be behind. The container is blocked for a client that
// is further behind, as long as the client takes anything; one that takes nothing for
// clientPatience is disconnected.
const (
	maxBacklog     = 1 << 20
	clientPatience = 10 * time.Second
)

// client is one attached connection. The streams queue frames, and the connection's own goroutine
// writes them.
type client struct {
	mu     sync.Mutex
	queue  []frame
	bytes  int // queued or being written
	closed bool
	wake   chan struct{} // there is something to write
	room   chan struct{} // something was written
}

type frame struct {
	kind wire.Kind
	data []byte
}

func newClient() *client { return &client{wake: make(chan struct{}, 1), room: make(chan struct{}, 1)} }

// send queues data. While the client is too far behind it waits.
func (c *client) send(kind wire.Kind, data []byte) {
	for !c.queued(kind, data) {
		late := time.NewTimer(clientPatience)
		select {
		case <-c.room:
		case <-late.C:
			c.lose()
		}
		late.Stop()
	}
}

func (c *client) queued(kind wire.Kind, data []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		poke(c.room) // the other stream may be waiting too
		return true
	}
	if c.bytes > 0 && c.bytes+len(data) > maxBacklog {
		return false
	}
	c.queue = append(c.queue, frame{kind, append([]byte(nil), data...)})
	c.bytes += len(data)
	poke(c.wake)
	return true
}

// lose disconnects a client that takes nothing.
func (c *client) lose() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue, c.closed = append(c.queue[:0], frame{kind: wire.FrameLost}), true
	poke(c.wake)
}

func (c *client) finish(kind wire.Kind) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.queue, c.closed = append(c.queue, frame{kind: kind}), true
	}
	poke(c.wake)
}

// leave ends the connection.
func (c *client) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue, c.closed = nil, true
	poke(c.room)
}

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// next returns the queued frames; done means that no more will come.
func (c *client) next() (frames []frame, done bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	frames, c.queue = c.queue, nil
	return frames, c.closed
}

// wrote frees n bytes of the backlog.
func (c *client) wrote(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bytes -= n
	poke(c.room)
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
		cl.leave()
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
			cl.wrote(len(f.data))
		}
		if done {
			return
		}
	}
}

// receive passes the client's input to the container until the client disconnects.
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
