package podsync

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/podplan"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
)

func (x *Executor) runHook(ctx context.Context, t Task, a podplan.RunHook) error {
	c, _ := podspec.Find(t.Want.Pod, a.Container)
	if c == nil {
		return fmt.Errorf("running the %s hook of container %q: the pod has no such container", a.Kind, a.Container)
	}
	host := ""
	if ips := podIPs(t.Want, t.Runtime); len(ips) > 0 {
		host = ips[0].String()
	}
	err := x.config.Hooks.Run(ctx, c, a.ContainerID, host, a.Kind)
	if err != nil {
		x.containerEvent(ctx, t, a.Container, [3]string{corev1.EventTypeWarning, "Failed" + string(a.Kind) + "Hook", string(a.Kind) + "Hook failed"})
	}
	return err
}
