package podsync

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/podplan"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// Task is one action with what it may need to know. Nothing in it is written to.
type Task struct {
	Want    podplan.Want // Want.Pod is nil for a pod that only the host knows
	Ref     runtime.PodRef
	Runtime runtime.Pod
	Action  podplan.Action
}

// ExecutorConfig is what an Executor carries actions out with. Every field is required.
type ExecutorConfig struct {
	Runtime lifecycle
	Images  images
	Puller  *Puller
	Build   Builder
	Claims  map[podplan.Kind]Claims // all of podplan.Kinds
	Cgroups Cgroups
	Hooks   Hooks
	Events  Events
}

// Executor carries actions out: each sort of action is one method in a file of its own.
type Executor struct{ config ExecutorConfig }

// NewExecutor checks the configuration.
func NewExecutor(c ExecutorConfig) (*Executor, error) {
	if c.Runtime == nil || c.Images == nil || c.Puller == nil || c.Build == nil {
		return nil, errors.New("making the executor: Runtime, Images, Puller and Build are required")
	}
	if c.Cgroups == nil || c.Hooks == nil || c.Events == nil {
		return nil, errors.New("making the executor: Cgroups, Hooks and Events are required")
	}
	if err := checkClaims(c.Claims); err != nil {
		return nil, fmt.Errorf("making the executor: %w", err)
	}
	return &Executor{config: c}, nil
}

// Execute carries one action out. It is idempotent, ends when ctx does, and announces what happens
// as events of the pod.
func (x *Executor) Execute(ctx context.Context, t Task) podplan.ActionResult {
	switch a := t.Action.(type) {
	case podplan.EnsureImage:
		image, err := x.config.Puller.Ensure(ctx, t.Want.Pod, a)
		return podplan.ActionResult{Err: err, ImageID: image.ID}
	case podplan.PrepareClaim:
		return done(x.prepareClaim(ctx, t, a.Claim))
	case podplan.ReleaseClaim:
		return done(x.config.Claims[a.Kind].Release(ctx, t.Ref))
	case podplan.StartSandbox:
		return done(x.startSandbox(ctx, t, a))
	case podplan.RemoveSandbox:
		return done(x.removeSandbox(ctx, t))
	case podplan.StartContainer:
		return done(x.startContainer(ctx, t, a))
	case podplan.RunHook:
		return done(x.runHook(ctx, t, a))
	case podplan.StopContainer:
		return done(x.stopContainer(ctx, t, a))
	case podplan.UpdateResources:
		return done(x.updateResources(ctx, t, a))
	case podplan.ResizePod:
		return done(x.config.Cgroups.ResizePod(ctx, t.Want.Pod, a.Widen))
	case podplan.RemoveContainer:
		return done(x.config.Runtime.RemoveContainer(ctx, a.ContainerID))
	default:
		return done(fmt.Errorf("executing %T: no such action", a))
	}
}

func done(err error) podplan.ActionResult { return podplan.ActionResult{Err: err} }

// event tells the pod's owner of a failure, unless the action was cancelled.
func (x *Executor) event(ctx context.Context, t Task, reason, message string) {
	if t.Want.Pod != nil && !errors.Is(ctx.Err(), context.Canceled) {
		x.config.Events.Event(podspec.Reference(t.Want.Pod), corev1.EventTypeWarning, reason, message)
	}
}

// containerEvent tells the pod's owner what happened to a container: type, reason and message.
func (x *Executor) containerEvent(ctx context.Context, t Task, name string, e [3]string) {
	if t.Want.Pod != nil && !errors.Is(ctx.Err(), context.Canceled) {
		x.config.Events.Event(podspec.ContainerReference(t.Want.Pod, name), e[0], e[1], e[2])
	}
}
