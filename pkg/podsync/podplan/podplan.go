// Package podplan is PURE: the pod state machine. Next says, for what is wanted of a pod and what
// the host has of it, which steps may be taken now, and when to look again. It reads nothing but
// its arguments, has no clock, and waits for nothing: order is "not yet", so that every step it
// returns may run side by side with the others. Nothing waits for the wall clock: see
// podspec.OwnMoment.
package podplan

import (
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// Want is the newest that is wanted of a pod. It is never written to.
type Want struct {
	UID types.UID
	// Pod is nil when every source has synced and none knows the pod: whatever runs of it is ended
	// and removed. Its resources are those that the pod was given, by Memory.Allocate.
	Pod *corev1.Pod
	// Reported is the status that the API server holds, the seed for what the host cannot remember
	// across a restart of the agent: readiness, start time, restart counts of removed containers.
	Reported corev1.PodStatus
	// Outcome, when set, ends the pod as Failed whatever its containers do: refused at admission,
	// evicted, node shutdown.
	Outcome *podspec.Termination
	HostIPs []netip.Addr // addresses of the node, primary first
	// CrashMax is the longest back-off of a crash loop on this node; 0: 300 s.
	CrashMax time.Duration
	// Static says that the pod is defined on this node: no API object to delete when it has ended.
	Static bool
}

// Have is what the host has of a pod.
type Have struct {
	Runtime runtime.Pod
	// Residue is what else is left of the pod on the host; only filled when the pod is ending or
	// has ended.
	Residue podspec.Residue
	// Probes has the newest results by container id.
	Probes map[string]podspec.Probes
	// Messages has the termination messages of exited containers by container id.
	Messages map[string]string
	// Busy has the keys (Action.Key) of the actions under way.
	Busy map[string]bool
	// Memory is what the host cannot hold; losing it is safe.
	Memory *Memory
}

// Action is one step that may be taken now.
type Action interface {
	fmt.Stringer // one line for people, stable: golden tests print it
	// Key names what the action works on; no two actions with one key are under way at a time.
	Key() string
	action()
}

// The actions.
type (
	// MountVolume makes one volume of the pod ready on the host; it is idempotent and also run
	// after a restart of the agent.
	MountVolume struct{ Volume string }
	// StartSandbox pins the namespaces and sets up the network.
	StartSandbox struct{ Attempt int }
	// EnsureImage finds the container's image or pulls it, by its pull policy.
	EnsureImage struct {
		Container, Ref string
		Attempt        int
		Policy         corev1.PullPolicy
	}
	// StartContainer creates and starts one attempt.
	StartContainer struct {
		Container string
		Attempt   int
		ImageID   string
		// Delay is the back-off from this start on; 0 for one that is no restart.
		Delay time.Duration
	}
	// RunHook runs a lifecycle hook of a running container.
	RunHook struct {
		Container, ContainerID string
		Kind                   podspec.HookKind
		// Grace bounds a PreStop hook.
		Grace time.Duration
	}
	// StopContainer signals: the image's stop signal, or SIGKILL with Kill.
	StopContainer struct {
		Container, ContainerID string
		Kill                   bool
		Message                string // why, for the Killing event
	}
	// UpdateResources changes the limits of a running container.
	UpdateResources struct {
		Container, ContainerID string
		To                     string // podspec.Resources, as text
	}
	// ResizePod changes the limits of the pod's cgroup to what the pod was given: with Widen only
	// those that grow.
	ResizePod struct {
		Generation int64 // of the resize that it is for
		Widen      bool
	}
	// RemoveContainer removes one attempt's record, snapshot and pipes.
	RemoveContainer struct{ Container, ContainerID string }
	// RemoveSandbox tears down network and namespaces of one attempt.
	RemoveSandbox struct{ Attempt int }
	// UnmountVolumes unmounts and removes everything below the pod's volumes folder.
	UnmountVolumes struct{}
	// RemoveCgroup removes the cgroup of a pod that has ended and is kept for its logs; idempotent
	// as all of them.
	RemoveCgroup struct{}
	// Cleanup removes the pod's cgroup, folder and logs.
	Cleanup struct{}
)

// Plan is what may be done now.
type Plan struct {
	Actions []Action
	// WakeAt is the next moment at which the answer could change with no event; zero for none.
	WakeAt time.Time
	// Stopped says that no container of an ending pod runs, or will: from here on the pod's status
	// is final.
	Stopped bool
	// Hold says that the status of this moment is not for the API: a container that was replaced
	// has ended and its successor is being started. It is over at WakeAt at the latest.
	Hold bool
	// Done says that nothing is left on the host; the worker may end.
	Done bool
}

// The String methods are what plans print as, in logs, in `nodeagent status` and in golden files.

func (a MountVolume) String() string  { return "mount volume " + a.Volume }
func (a StartSandbox) String() string { return fmt.Sprintf("start sandbox attempt %d", a.Attempt) }
func (a EnsureImage) String() string {
	return fmt.Sprintf("ensure image %s for %s attempt %d (%s)", a.Ref, a.Container, a.Attempt, a.Policy)
}

func (a StartContainer) String() string {
	return fmt.Sprintf("start container %s attempt %d", a.Container, a.Attempt)
}
func (a RunHook) String() string { return fmt.Sprintf("run %s hook of %s", a.Kind, a.Container) }
func (a StopContainer) String() string {
	if a.Kill {
		return fmt.Sprintf("kill container %s: %s", a.Container, a.Message)
	}
	return fmt.Sprintf("stop container %s: %s", a.Container, a.Message)
}

func (a UpdateResources) String() string {
	return fmt.Sprintf("update resources of %s: %s", a.Container, a.To)
}

func (a ResizePod) String() string {
	if a.Widen {
		return fmt.Sprintf("widen the pod's cgroup for generation %d", a.Generation)
	}
	return fmt.Sprintf("narrow the pod's cgroup for generation %d", a.Generation)
}

func (a RemoveContainer) String() string {
	return fmt.Sprintf("remove container %s %.12s", a.Container, a.ContainerID)
}

func (a RemoveSandbox) String() string {
	return fmt.Sprintf("remove sandbox attempt %d", a.Attempt)
}
func (UnmountVolumes) String() string { return "unmount volumes" }
func (RemoveCgroup) String() string   { return "remove cgroup" }
func (Cleanup) String() string        { return "clean up" }

// Key is one volume.
func (a MountVolume) Key() string { return "volume/" + a.Volume }

// Key is the sandbox, shared with its removal.
func (StartSandbox) Key() string { return "sandbox" }

// Key is one container's image.
func (a EnsureImage) Key() string { return "image/" + a.Container }

// Key is one container, whatever the attempt.
func (a StartContainer) Key() string { return "container/" + a.Container }

// Key is one hook of one attempt.
func (a RunHook) Key() string { return "hook/" + string(a.Kind) + "/" + a.ContainerID }

// Key is one attempt, for either signal.
func (a StopContainer) Key() string { return "stop/" + a.ContainerID }

// resizePrefix begins the keys of every step of a resize.
const resizePrefix = "resize/"

// Key is one attempt, whatever it is to have.
func (a UpdateResources) Key() string { return resizePrefix + a.ContainerID }

// Key is the pod's cgroup, for either step.
func (ResizePod) Key() string { return resizePrefix + "pod" }

// removePrefix begins the keys of removals of containers.
const removePrefix = "remove/"

// Key is one attempt.
func (a RemoveContainer) Key() string { return removePrefix + a.ContainerID }

// Key is the sandbox, shared with its start.
func (RemoveSandbox) Key() string { return "sandbox" }

// Key is all volumes.
func (UnmountVolumes) Key() string { return "volumes" }

// Key is shared with Cleanup, which removes the cgroup too.
func (RemoveCgroup) Key() string { return "cleanup" }

// Key is shared with RemoveCgroup.
func (Cleanup) Key() string { return "cleanup" }

func (MountVolume) action()     {}
func (StartSandbox) action()    {}
func (EnsureImage) action()     {}
func (StartContainer) action()  {}
func (RunHook) action()         {}
func (StopContainer) action()   {}
func (UpdateResources) action() {}
func (ResizePod) action()       {}
func (RemoveContainer) action() {}
func (RemoveSandbox) action()   {}
func (UnmountVolumes) action()  {}
func (RemoveCgroup) action()    {}
func (Cleanup) action()         {}
