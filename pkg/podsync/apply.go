package podsync

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/podplan"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// EdgesConfig is what actions are carried out with. Every field is required.
type EdgesConfig struct {
	Runtime lifecycle
	Images  images
	Puller  *Puller
	Build   Builder
	Host    Host
	Volumes Volumes
	Hooks   Hooks
	Events  Events
}

// Edges is the Applier of the agent: each kind of action is one short method over the edges that do
// it.
type Edges struct{ config EdgesConfig }

// NewEdges checks the configuration.
func NewEdges(c EdgesConfig) (*Edges, error) {
	if c.Runtime == nil || c.Images == nil || c.Puller == nil || c.Build == nil {
		return nil, errors.New("making the applier: Runtime, Images, Puller and Build are required")
	}
	if c.Host == nil || c.Volumes == nil || c.Hooks == nil || c.Events == nil {
		return nil, errors.New("making the applier: Host, Volumes, Hooks and Events are required")
	}
	return &Edges{config: c}, nil
}

// Apply carries one action out.
func (x *Edges) Apply(ctx context.Context, t Task) podplan.ActionResult {
	var err error
	switch a := t.Action.(type) {
	case podplan.EnsureImage:
		image, err := x.config.Puller.Ensure(ctx, t.Want.Pod, a)
		return podplan.ActionResult{Err: err, ImageID: image.ID}
	case podplan.MountVolume:
		err = x.mount(ctx, t, a)
	case podplan.StartSandbox:
		err = x.startSandbox(ctx, t, a)
	case podplan.StartContainer:
		err = x.startContainer(ctx, t, a)
	case podplan.RunHook:
		err = x.runHook(ctx, t, a)
	case podplan.StopContainer:
		err = x.stop(ctx, t, a)
	case podplan.UpdateResources:
		err = x.updateResources(ctx, t, a)
	case podplan.ResizePod:
		err = x.config.Host.ResizeCgroup(ctx, t.Want.Pod, a.Widen)
	case podplan.RemoveContainer:
		err = x.config.Runtime.RemoveContainer(ctx, a.ContainerID)
	case podplan.RemoveSandbox:
		err = x.removeSandbox(ctx, t)
	case podplan.UnmountVolumes:
		err = x.config.Volumes.Unmount(ctx, t.Ref.UID)
	case podplan.RemoveCgroup:
		err = x.config.Host.RemoveCgroup(ctx, t.Ref)
	case podplan.Cleanup:
		err = x.config.Host.Cleanup(ctx, t.Ref)
	default:
		err = fmt.Errorf("applying %T: no such action", a)
	}
	return podplan.ActionResult{Err: err}
}

// event tells of something that befell the pod, unless it is the consequence of a cancellation.
func (x *Edges) event(ctx context.Context, t Task, reason, message string) {
	if t.Want.Pod != nil && !errors.Is(ctx.Err(), context.Canceled) {
		x.config.Events.Event(podspec.Reference(t.Want.Pod), corev1.EventTypeWarning, reason, message)
	}
}

func (x *Edges) containerEvent(ctx context.Context, t Task, name string, e [3]string) {
	if t.Want.Pod != nil && !errors.Is(ctx.Err(), context.Canceled) {
		x.config.Events.Event(podspec.ContainerReference(t.Want.Pod, name), e[0], e[1], e[2])
	}
}

func (x *Edges) mount(ctx context.Context, t Task, a podplan.MountVolume) error {
	err := x.config.Volumes.Mount(ctx, t.Want.Pod, a.Volume)
	if err != nil {
		message := err.Error()
		if !strings.HasPrefix(message, "MountVolume.") {
			message = fmt.Sprintf("MountVolume.SetUp failed for volume %q : %v", a.Volume, err)
		}
		x.event(ctx, t, "FailedMount", message)
	}
	return err
}

func (x *Edges) startSandbox(ctx context.Context, t Task, a podplan.StartSandbox) error {
	if err := x.config.Host.Prepare(ctx, t.Want.Pod); err != nil {
		x.event(ctx, t, "FailedCreatePodContainer", fmt.Sprintf("unable to ensure pod container exists: %v", err))
		return err
	}
	config, err := x.config.Build.Sandbox(ctx, t.Want.Pod, a.Attempt)
	if err == nil {
		_, err = x.config.Runtime.StartSandbox(ctx, config)
	}
	if errors.Is(err, runtime.ErrNetworkNotReady) {
		x.event(ctx, t, "NetworkNotReady", fmt.Sprintf("network is not ready: %v", err))
		return err
	}
	if err != nil {
		x.event(ctx, t, "FailedCreatePodSandBox", fmt.Sprintf("Failed to create pod sandbox: %v", err))
	}
	return err
}

func (x *Edges) startContainer(ctx context.Context, t Task, a podplan.StartContainer) error {
	err := x.start(ctx, t, a)
	if err != nil {
		x.containerEvent(ctx, t, a.Container, [3]string{corev1.EventTypeWarning, "Failed", "Error: " + err.Error()})
	}
	return err
}

func (x *Edges) start(ctx context.Context, t Task, a podplan.StartContainer) error {
	image, err := x.config.Images.Image(ctx, a.ImageID)
	if err != nil {
		return podspec.WithReason("ImageInspectError", fmt.Errorf("finding the image %q of container %q: %w", a.ImageID, a.Container, err))
	}
	config, err := x.config.Build.Container(ctx, ContainerRequest{
		Pod: t.Want.Pod, HostIPs: t.Want.HostIPs, Static: t.Want.Static, Have: t.Have,
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
		return nil // it is Exited with this very error
	}
	x.containerEvent(ctx, t, a.Container, [3]string{corev1.EventTypeNormal, "Started", "Container started"})
	return nil
}

func (x *Edges) runHook(ctx context.Context, t Task, a podplan.RunHook) error {
	c, _ := podspec.Find(t.Want.Pod, a.Container)
	if c == nil {
		return fmt.Errorf("running the %s hook of container %q: the pod has no such container", a.Kind, a.Container)
	}
	host := ""
	if ips := podIPs(t.Want, t.Have); len(ips) > 0 {
		host = ips[0].String()
	}
	err := x.config.Hooks.Run(ctx, c, a.ContainerID, host, a.Kind)
	if err != nil {
		x.containerEvent(ctx, t, a.Container, [3]string{corev1.EventTypeWarning, "Failed" + string(a.Kind) + "Hook", string(a.Kind) + "Hook failed"})
	}
	return err
}

// stop signals a container, and tells of it the first time: a kill always follows the polite
// signal.
func (x *Edges) stop(ctx context.Context, t Task, a podplan.StopContainer) error {
	sig := syscall.SIGKILL
	if !a.Kill {
		sig = stopSignal(t.Have, a.ContainerID)
		message := cmp.Or(a.Message, "Stopping container "+a.Container)
		x.containerEvent(ctx, t, a.Container, [3]string{corev1.EventTypeNormal, "Killing", message})
	}
	if err := x.config.Runtime.Signal(ctx, a.ContainerID, sig); err != nil {
		x.event(ctx, t, "FailedKillPod", fmt.Sprintf("error killing pod: %v", err))
		return err
	}
	return nil
}

// stopSignal is what asks the container to end, by its own record: neither its pod's object nor its
// image may be there any more.
func stopSignal(have runtime.Pod, id string) syscall.Signal {
	for _, c := range have.Containers {
		if c.ID == id {
			return parseSignal(c.StopSignal)
		}
	}
	return syscall.SIGTERM
}

// parseSignal reads "SIGUSR1", "USR1", "10", "SIGRTMIN+3"; what it cannot read is SIGTERM.
func parseSignal(text string) syscall.Signal {
	name := strings.ToUpper(strings.TrimSpace(text))
	if number := 0; name != "" {
		if _, err := fmt.Sscanf(name, "%d", &number); err == nil && number > 0 && number <= 64 {
			return syscall.Signal(number)
		}
	}
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	const rtMin, rtMax = 34, 64
	offset := 0
	if _, err := fmt.Sscanf(name, "SIGRTMIN+%d", &offset); (err == nil || name == "SIGRTMIN") && offset >= 0 && rtMin+offset <= rtMax {
		return syscall.Signal(rtMin + offset)
	}
	if _, err := fmt.Sscanf(name, "SIGRTMAX-%d", &offset); (err == nil || name == "SIGRTMAX") && offset >= 0 && rtMax-offset >= rtMin {
		return syscall.Signal(rtMax - offset)
	}
	if sig := unix.SignalNum(name); sig != 0 {
		return sig
	}
	return syscall.SIGTERM
}

// updateResources gives a running container the limits of the task's pod, which are those that the
// action names.
func (x *Edges) updateResources(ctx context.Context, t Task, a podplan.UpdateResources) error {
	limits, err := x.config.Build.Resources(t.Want.Pod, a.Container)
	if err != nil {
		return fmt.Errorf("making the limits of container %q: %w", a.Container, err)
	}
	return x.config.Runtime.UpdateResources(ctx, a.ContainerID, a.To, limits)
}

func (x *Edges) removeSandbox(ctx context.Context, t Task) error {
	// That of a pod which has completed is there to its end; the API may not know yet that it has.
	lost := t.Have.Sandbox != nil && !t.Have.Sandbox.Ready
	if lost && !isEnding(t.Want) && t.Want.Reported.Phase == corev1.PodRunning {
		x.config.Events.Event(podspec.Reference(t.Want.Pod), corev1.EventTypeNormal, "SandboxChanged",
			"Pod sandbox changed, it will be killed and re-created.")
	}
	return x.config.Runtime.RemoveSandbox(ctx, t.Ref.UID)
}
