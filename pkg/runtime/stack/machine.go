package stack

import (
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodeagent/nodeagent/pkg/runtime/containerconfig"
	"github.com/nodeagent/nodeagent/pkg/runtime/containerd"
	"github.com/nodeagent/nodeagent/pkg/runtime/ocispec"
)

// Machine reads the facts of this machine that OCI specs depend on.
func Machine() (n ocispec.Node, recursiveReadOnly bool, err error) {
	n, recursiveReadOnly, err = containerconfig.Detect()
	if containerd.HostHasAppArmor() {
		n.AppArmor = containerd.AppArmorProfile
	}
	return n, recursiveReadOnly, err
}

// DefaultSeccomp is the profile RuntimeDefault, for callers that build specs without running them.
func DefaultSeccomp(s *specs.Spec) (*specs.LinuxSeccomp, error) { return containerd.DefaultSeccomp(s) }
