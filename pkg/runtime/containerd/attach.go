package containerd

import (
	"context"
	"fmt"
	"io"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// Attach connects to the container's main process until its output ends or ctx does.
func (r *Runtime) Attach(ctx context.Context, id string, streams runtime.IO) error {
	if err := r.view.wait(ctx); err != nil {
		return err
	}
	c, ok := r.view.find(id)
	if !ok {
		return fmt.Errorf("attaching to container %.12s: %w", id, runtime.ErrNotFound)
	}
	if c.c.State != runtime.Running {
		return fmt.Errorf("attaching to container %q: it is %s, not running", c.c.Name, c.c.State)
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

// endReader calls ended when its source has ended.
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
