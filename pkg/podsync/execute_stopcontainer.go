package podsync

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/podplan"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// stopContainer signals a container. It announces the stop signal only: a kill always follows one.
func (x *Executor) stopContainer(ctx context.Context, t Task, a podplan.StopContainer) error {
	sig := syscall.SIGKILL
	if !a.Kill {
		sig = stopSignal(t.Runtime, a.ContainerID)
		message := cmp.Or(a.Message, "Stopping container "+a.Container)
		x.containerEvent(ctx, t, a.Container, [3]string{corev1.EventTypeNormal, "Killing", message})
	}
	if err := x.config.Runtime.Signal(ctx, a.ContainerID, sig); err != nil {
		x.event(ctx, t, "FailedKillPod", fmt.Sprintf("error killing pod: %v", err))
		return err
	}
	return nil
}

// stopSignal is the container's stop signal by its own record: the pod's object and the image may
// be gone.
func stopSignal(pod runtime.Pod, id string) syscall.Signal {
	for _, c := range pod.Containers {
		if c.ID == id {
			return parseSignal(c.StopSignal)
		}
	}
	return syscall.SIGTERM
}

// parseSignal reads "SIGUSR1", "USR1", "10", "SIGRTMIN+3"; any other text means SIGTERM.
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
