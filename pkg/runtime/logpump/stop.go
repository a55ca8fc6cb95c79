package logpump

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/nodeagent/nodeagent/pkg/runtime/logpump/wire"
)

// Stop ends the pump, which must serve no container, and waits for its end. It reports whether a
// pump was running.
func (c *Client) Stop(ctx context.Context) (was bool, err error) {
	conn, _, err := c.askOnce(ctx, wire.Request{Op: wire.Quit})
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return false, nil
	}
	if err != nil {
		return true, fmt.Errorf("ending the log pump: %w", err)
	}
	_, _ = conn.Read(make([]byte, 1)) // until it has ended
	return true, conn.Close()
}
