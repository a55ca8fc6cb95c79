package objects

import (
	"context"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// The API server answers some requests from caches that may be some milliseconds behind the watch
// that told the agent of a pod. What they do not know yet is asked for again: first after
// firstWait, then after twice the wait before, up to lastWait: 1.3 s in all.
const (
	firstWait = 5 * time.Millisecond
	lastWait  = 640 * time.Millisecond
)

// behindPod says that an answer may come from an authorizer that does not know the pod yet, and so
// does not know either that this node may read what the pod names.
func behindPod(err error) bool { return apierrors.IsForbidden(err) }

// behindToken says that a refused token request may come from a cache that does not know yet the
// pod that the token is bound to, or its service account; or that still has another pod of the
// pod's name, as when a StatefulSet makes one anew.
func behindToken(err error) bool {
	return apierrors.IsForbidden(err) || apierrors.IsNotFound(err) || apierrors.IsConflict(err)
}

// askAgain tries until the answer is no longer one that a cache behind the truth would give, or the
// waits are used up.
func askAgain(ctx context.Context, behind func(error) bool, try func() error) error {
	for wait := firstWait; ; wait *= 2 {
		err := try()
		if !behind(err) || wait > lastWait {
			return err
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return err
		case <-timer.C:
		}
	}
}
