package containerd

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// readyTime is how long containerd may take to read a record, writePatience how long to change one,
// before it counts as unhealthy.
const (
	readyTime     = 5 * time.Second
	writePatience = 30 * time.Second
)

// Ready returns nil if the view is current, containerd reads its records and no change of a record
// is stuck. Otherwise it returns an ErrUnavailable with the remedy. The text is the same from call
// to call.
func (r *Runtime) Ready(ctx context.Context) error {
	if !r.view.current() {
		r.mu.Lock()
		refused := r.refused
		r.mu.Unlock()
		if refused != nil {
			return refused
		}
		return fmt.Errorf("containerd at %s does not answer: is the service running? %w", r.c.Address, runtime.ErrUnavailable)
	}
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	// Unlike containerd's health service, which always answers SERVING, this reads the database.
	_, err := r.store().Get(ctx, "nodeagent-ready")
	if err != nil && !errdefs.IsNotFound(err) {
		if ctx.Err() != nil || errdefs.IsCanceled(err) || errdefs.IsDeadlineExceeded(err) {
			return fmt.Errorf("containerd at %s is not healthy: it does not read a record within %s: check its log and its disk, then restart it: %w",
				r.c.Address, readyTime, runtime.ErrUnavailable)
		}
		return fmt.Errorf("containerd at %s is not healthy: reading a record: %w: %w", r.c.Address, runtime.ErrUnavailable, err)
	}
	if method := r.calls.stuck(writePatience); method != "" {
		return fmt.Errorf("containerd at %s is not healthy: %s has been in progress for more than %s: check its log and its disk, then restart it: %w",
			r.c.Address, method, writePatience, runtime.ErrUnavailable)
	}
	return nil
}
