package podsync

import (
	"context"
	"fmt"

	"github.com/nodeagent/nodeagent/pkg/podsync/podplan"
)

// updateResources gives a running container the limits of the task's pod, which are those that the
// action names.
func (x *Executor) updateResources(ctx context.Context, t Task, a podplan.UpdateResources) error {
	limits, err := x.config.Build.Resources(t.Want.Pod, a.Container)
	if err != nil {
		return fmt.Errorf("making the limits of container %q: %w", a.Container, err)
	}
	return x.config.Runtime.UpdateResources(ctx, a.ContainerID, a.To, limits)
}
