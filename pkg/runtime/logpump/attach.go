package logpump

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/runtime/logpump/wire"
)

// ErrSlow means that an attached client did not take the output fast enough and was disconnected.
var ErrSlow = errors.New("attached client fell too far behind the container's output")

// Attach copies the container's output from now on, and stdin to the container, until the output
// ends (nil) or ctx does.
func (c *Client) Attach(ctx context.Context, id string, streams runtime.IO) error {
	conn, _, err := c.ask(ctx, wire.Request{Op: wire.Attach, ID: id, Stdin: streams.Stdin != nil})
	if err != nil {
		return fmt.Errorf("attaching to container %.12s: %w", id, err)
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if streams.Stdin != nil {
		// The reader may block on its source for ever; it ends with the source or the connection.
		go sendStdin(conn, streams.Stdin)
	}
	err = receive(conn, streams)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func sendStdin(conn net.Conn, stdin io.Reader) {
	buf := make([]byte, 32<<10)
	for {
		n, err := stdin.Read(buf)
		if n > 0 && wire.WriteFrame(conn, wire.FrameStdin, buf[:n]) != nil {
			return
		}
		if err != nil {
			_ = wire.WriteFrame(conn, wire.FrameStdinEnd, nil)
			return
		}
	}
}

func receive(conn net.Conn, streams runtime.IO) error {
	buf := make([]byte, wire.MaxFrame)
	for {
		kind, data, err := wire.ReadFrame(conn, buf)
		if err != nil {
			return fmt.Errorf("reading from the log pump: %w", err)
		}
		var w io.Writer
		switch kind {
		case wire.FrameStdout:
			w = streams.Stdout
		case wire.FrameStderr:
			w = streams.Stderr
		case wire.FrameEnd:
			return nil
		case wire.FrameLost:
			return ErrSlow
		}
		if w == nil {
			continue
		}
		if _, err := w.Write(data); err != nil {
			return err
		}
	}
}
