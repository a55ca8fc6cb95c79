// Package version is PURE: what this build calls itself. The linker stamps the two numbers; nothing
// else writes them.
package version

import (
	"runtime"
	"strings"
)

// AgentVersion is stamped with -ldflags "-X
// github.com/nodeagent/nodeagent/pkg/version.AgentVersion=0.2.0"; read it through Agent.
var AgentVersion = "0.1.0" //nolint:gochecknoglobals // the linker can stamp nothing else

// kubernetes is the release whose behaviour the agent has; go.mod builds it with k8s.io/* of the
// same number.
const kubernetes = "v1.36.3"

// Agent is the agent's own version, such as "0.1.0".
func Agent() string { return strings.TrimPrefix(AgentVersion, "v") }

// Minor is the Kubernetes minor version of that release, for the skew rules.
const Minor = 36

// Kubernetes is what the Node reports as kubeletVersion, such as "v1.36.3+nodeagent.0.1.0": the API
// server's, the scheduler's and kubeadm's skew rules read the part before the plus sign.
func Kubernetes() string { return kubernetes + "+nodeagent." + Agent() }

// UserAgent names the agent in API server logs and in managed fields.
func UserAgent() string {
	return "nodeagent/" + Agent() + " (" + runtime.GOOS + "/" + runtime.GOARCH + ") kubernetes/" + kubernetes
}
