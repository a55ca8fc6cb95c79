package containerd

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc/status"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// native classifies an error: ErrUnavailable if containerd did not answer, else errdefs' class of
// the answer.
func native(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok { // else the client has converted it already
		err = errgrpc.ToNative(err)
	}
	switch {
	case errdefs.IsUnavailable(err):
		return fmt.Errorf("%w: %w", runtime.ErrUnavailable, err)
	case errdefs.IsNotFound(err):
		return fmt.Errorf("%w: %w", runtime.ErrNotFound, err)
	}
	return err
}

// isDeadline reports whether containerd, or this call, ran out of time.
func isDeadline(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errdefs.IsDeadlineExceeded(native(err))
}
