package podsync

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/podplan"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

func (x *Executor) startContainer(ctx context.Context, t Task, a podplan.StartContainer) error {
	err := x.createAndStart(ctx, t, a)
	if err != nil {
		x.containerEvent(ctx, t, a.Container, [3]string{corev1.EventTypeWarning, "Failed", "Error: " + err.Error()})
	}
	return err
}

func (x *Executor) createAndStart(ctx context.Context, t Task, a podplan.StartContainer) error {
	image, err := x.config.Images.Image(ctx, a.ImageID)
	if err != nil {
		return podspec.WithReason("ImageInspectError", fmt.Errorf("finding the image %q of container %q: %w", a.ImageID, a.Container, err))
	}
	config, err := x.config.Build.Container(ctx, runtime.ContainerRequest{
		Pod: t.Want.Pod, HostIPs: t.Want.HostIPs, Static: t.Want.Static, Runtime: t.Runtime,
		Name: a.Container, Attempt: a.Attempt, Image: image,
	})
	if err != nil {
		return podspec.WithReason("CreateContainerConfigError", err)
	}
	c, err := x.config.Runtime.StartContainer(ctx, config)
	if err != nil {
		return podspec.WithReason("CreateContainerError", err)
	}
	x.containerEvent(ctx, t, a.Container, [3]string{corev1.EventTypeNormal, "Created", "Container created"})
	if c.StartError != "" {
		x.containerEvent(ctx, t, a.Container, [3]string{corev1.EventTypeWarning, "Failed", "Error: " + c.StartError})
		return nil // the attempt's record is Exited with this error
	}
	x.containerEvent(ctx, t, a.Container, [3]string{corev1.EventTypeNormal, "Started", "Container started"})
	return nil
}
