package podsync

import (
	"context"

	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// Source emits the pods of this node.
type Source interface {
	// Run calls emit for every change until ctx ends. emit never blocks. Run emits all pods of the
	// first complete answer before Synced says true.
	Run(ctx context.Context, emit func(podspec.Update)) error
	// Synced says that Run has emitted a complete answer. The loop removes pods that no source
	// knows only when every source says true.
	Synced() bool
}

// StatusSink writes statuses to the API. No call waits for the network. For a static pod the object
// is its mirror.
type StatusSink interface {
	// Put hands over the newest status of object, in place of one that was not written yet.
	Put(object *corev1.Pod, s corev1.PodStatus)
	// Hold hands over a status that is not for the API yet, only for parts of this node.
	Hold(object *corev1.Pod, s corev1.PodStatus)
	// Finish hands over the last status, and deletes the API object when that is written. It may be
	// called again.
	Finish(object *corev1.Pod, s corev1.PodStatus)
	// Forget drops what the sink holds of an API object that is gone.
	Forget(uid types.UID)
}

// Events is the one method of client-go's EventRecorder that is used here.
type Events interface {
	Event(object kruntime.Object, eventType, reason, message string)
}

// Builder makes finished configurations from pods. Its errors may be podspec.ReasonError.
type Builder interface {
	Sandbox(ctx context.Context, pod *corev1.Pod, attempt int) (runtime.SandboxConfig, error)
	Container(ctx context.Context, r runtime.ContainerRequest) (runtime.ContainerConfig, error)
	// Resources are the limits of a container by the pod's spec.
	Resources(pod *corev1.Pod, container string) (*specs.LinuxResources, error)
}

// Host finds what an earlier life of the agent left.
type Host interface {
	// Leftovers are the UIDs of all pods for which the host holds a claim.
	Leftovers(ctx context.Context) ([]types.UID, error)
}

// Hooks runs lifecycle hooks. An error's text is the hook's own failure.
type Hooks interface {
	// Run runs the container's hook of that kind; host is the pod's address, for hooks over HTTP.
	Run(ctx context.Context, c *corev1.Container, containerID, host string, kind podspec.HookKind) error
}

// Prober checks running containers. It calls Loop.Wake when a result changes.
type Prober interface {
	// Sync starts the probes of newly running containers and ends those of containers that no
	// longer run. pod.Status is what was reported to the API server.
	Sync(pod *corev1.Pod, have runtime.Pod)
	Results(containerID string) podspec.Probes
	// Forget ends all probes of a pod.
	Forget(uid types.UID)
}

// Messages reads termination messages.
type Messages interface {
	// Message returns at most limit bytes of the exited container's message; "" when there is none.
	Message(ctx context.Context, c runtime.Container, policy corev1.TerminationMessagePolicy, limit int) string
}

// PullSecrets reads the credentials that a pod names for an image.
type PullSecrets interface {
	// Credentials returns those that match the image's registry, and the names of secrets that
	// could not be read.
	Credentials(ctx context.Context, pod *corev1.Pod, image string) (found []runtime.Credentials, missing []string)
}

// lifecycle is the part of the runtime that starts, changes and ends things.
type lifecycle interface {
	runtime.Lifecycle
	runtime.Resizer
}

// images is the part of the runtime that the applier needs of its image store.
type images interface {
	Image(ctx context.Context, ref string) (runtime.Image, error)
	Pull(ctx context.Context, ref string, auth []runtime.Credentials) (runtime.Image, error)
}
