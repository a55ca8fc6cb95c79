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

// startSandbox prepares the claims that the sandbox lies in, and starts it.
func (x *Executor) startSandbox(ctx context.Context, t Task, a podplan.StartSandbox) error {
	for _, kind := range podplan.SandboxKinds() {
		if err := x.prepareClaim(ctx, t, podplan.Claim{Kind: kind}); err != nil {
			return err
		}
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

func (x *Executor) removeSandbox(ctx context.Context, t Task) error {
	// A pod that has completed keeps its sandbox to its end; the API may not know yet that it has.
	lost := t.Runtime.Sandbox != nil && !t.Runtime.Sandbox.Ready
	if lost && !isEnding(t.Want) && t.Want.Reported.Phase == corev1.PodRunning {
		x.config.Events.Event(podspec.Reference(t.Want.Pod), corev1.EventTypeNormal, "SandboxChanged",
			"Pod sandbox changed, it will be killed and re-created.")
	}
	return x.config.Runtime.RemoveSandbox(ctx, t.Ref.UID)
}
