package podsync

import (
	"context"

	"github.com/nodeagent/nodeagent/pkg/podsync/podplan"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
)

// prepareClaim announces a failure with the reason of its error.
func (x *Executor) prepareClaim(ctx context.Context, t Task, c podplan.Claim) error {
	err := x.config.Claims[c.Kind].Prepare(ctx, t, c.Name)
	if err != nil {
		x.event(ctx, t, podspec.ReasonOf(err, "FailedPrepareClaim"), err.Error())
	}
	return err
}
