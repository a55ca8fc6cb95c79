package containerconfig

import (
	"context"

	"github.com/moby/sys/userns"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/runtime/sandboxspec"
)

// Sandbox gathers what a pod's sandbox is made from; sandboxspec.Build decides.
func (b *Builder) Sandbox(ctx context.Context, pod *corev1.Pod, attempt int) (runtime.SandboxConfig, error) {
	handler, err := b.handler(ctx, pod)
	if err != nil {
		return runtime.SandboxConfig{}, err
	}
	b.warnOfSELinux(pod)
	return sandboxspec.Build(sandboxspec.Input{
		Pod: pod, Attempt: attempt, CgroupParent: b.config.Cgroups.PodPath(pod), RuntimeHandler: handler,
		ClusterDomain: b.config.DNS.Domain, InUserNS: userns.RunningInUserNS(),
	})
}
