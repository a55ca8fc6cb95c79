package proxier

import (
	"context"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/sleep"
)

const (
	// firstLook and lastLook bound the pause before a family that the machine cannot program is
	// tried again; it doubles.
	firstLook = time.Second
	lastLook  = time.Minute
)

// Families runs a Loop for each address family, whatever addresses the node has: Services may have
// either.
type Families struct {
	// Loop makes the Loop of a family. An error says why this machine cannot program it; it may be
	// able to later, for instance after a package is installed.
	Loop func(ctx context.Context, f corev1.IPFamily) (*Loop, error)
	// Primary is the family that the node needs.
	Primary func() corev1.IPFamily
	Health  *Health
	Log     *slog.Logger
}

// Run blocks until ctx is done, and returns nil then.
func (s Families) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, f := range []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol} {
		g.Go(func() error { return s.run(ctx, f) })
	}
	return g.Wait()
}

func (s Families) run(ctx context.Context, f corev1.IPFamily) error {
	logged := ""
	for pause := firstLook; ctx.Err() == nil; pause = min(2*pause, lastLook) {
		loop, err := s.Loop(ctx, f)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // the caller ended it
		case err == nil:
			return loop.Run(ctx)
		}
		s.Health.Failed(f, err)
		switch {
		case f == s.Primary():
			s.Log.Error("Services of the node's primary address family are not programmed", "family", f, "err", err, "retryIn", pause)
		case err.Error() != logged:
			s.Log.Info("Services of a secondary address family are not programmed: this machine does not support it", "family", f, "err", err)
		}
		logged = err.Error()
		_ = sleep.For(ctx, pause)
	}
	return nil
}
