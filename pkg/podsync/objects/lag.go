package objects

import (
	"context"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/nodeagent/nodeagent/pkg/sleep"
)

// The API server answers some requests from caches that may be milliseconds behind the watch
// through which the agent learned of a pod. Requests that such a cache refuses are retried after
// firstWait, then after twice the wait before, up to lastWait: for 1.3 s in all.
const (
	firstWait = 5 * time.Millisecond
	lastWait  = 640 * time.Millisecond
)

// behindPod reports whether the error may come from an authorizer that does not know the pod yet,
// and so refuses this node what the pod names.
func behindPod(err error) bool { return apierrors.IsForbidden(err) }

// behindToken reports whether a token request may have been refused from a cache that does not know
// the pod or its service account yet, or that still has an earlier pod of the same name, as with a
// StatefulSet.
func behindToken(err error) bool {
	return apierrors.IsForbidden(err) || apierrors.IsNotFound(err) || apierrors.IsConflict(err)
}

// retry calls try until its error is not one that a stale cache would give, or the waits are used
// up.
func retry(ctx context.Context, behind func(error) bool, try func() error) error {
	for wait := firstWait; ; wait *= 2 {
		err := try()
		if !behind(err) || wait > lastWait {
			return err
		}
		if sleep.For(ctx, wait) != nil {
			return err
		}
	}
}
