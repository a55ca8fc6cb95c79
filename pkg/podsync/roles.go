package podsync

import (
	"context"
	"net/netip"

	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// Source tells which pods this node is to run.
type Source interface {
	// Run calls emit for every change until ctx ends. emit never blocks. The pods of the first
	// complete answer are all emitted before Synced says true.
	Run(ctx context.Context, emit func(podspec.Update)) error
	// Synced says that a complete answer was emitted. Pods that no source knows are removed only
	// when every source says true.
	Synced() bool
}

// StatusSink writes statuses to the API. No call waits for the network. For a static pod the object
// is its mirror.
type StatusSink interface {
	// Put hands over the newest status of object; an older one that was not written yet is
	// forgotten.
	Put(object *corev1.Pod, s corev1.PodStatus)
	// Hold tells of a status that is not for the API yet: only what works on this node may go by
	// it.
	Hold(object *corev1.Pod, s corev1.PodStatus)
	// Finish hands over the last status; when it is written, the API object is deleted. It may be
	// called again.
	Finish(object *corev1.Pod, s corev1.PodStatus)
	// Forget drops what was handed over of an API object that is gone.
	Forget(uid types.UID)
}

// Events is the one method of client-go's EventRecorder that is used here.
type Events interface {
	Event(object kruntime.Object, eventType, reason, message string)
}

// Builder makes finished configurations from pods. Its errors may be podspec.ReasonError.
type Builder interface {
	Sandbox(ctx context.Context, pod *corev1.Pod, attempt int) (runtime.SandboxConfig, error)
	Container(ctx context.Context, r ContainerRequest) (runtime.ContainerConfig, error)
	// Resources are the limits that a container that runs is to have by the pod's spec.
	Resources(pod *corev1.Pod, container string) (*specs.LinuxResources, error)
}

// ContainerRequest is one attempt of a container that is to be configured. Nothing in it is written
// to.
type ContainerRequest struct {
	Pod     *corev1.Pod
	HostIPs []netip.Addr // of the node, primary first
	Static  bool         // the pod is defined on this node
	Have    runtime.Pod  // its sandbox is ready
	Name    string       // of the container, whatever its role
	Attempt int
	Image   runtime.Image
}

// Host is what is kept of a pod on the host beside sandbox, containers and volumes: its folder,
// logs and cgroup.
type Host interface {
	// Prepare makes folder, log folder and cgroup; it runs before the sandbox starts, and is
	// harmless later.
	Prepare(ctx context.Context, pod *corev1.Pod) error
	// ResizeCgroup changes the limits of the pod's cgroup to those of the pod: with widen only
	// those that grow.
	ResizeCgroup(ctx context.Context, pod *corev1.Pod, widen bool) error
	// Residue says what is left, volumes included.
	Residue(ctx context.Context, pod runtime.PodRef) (podspec.Residue, error)
	// RemoveCgroup removes the pod's cgroup only.
	RemoveCgroup(ctx context.Context, pod runtime.PodRef) error
	// Cleanup removes what Prepare made.
	Cleanup(ctx context.Context, pod runtime.PodRef) error
	// Leftovers are the UIDs of all pods of which anything is left.
	Leftovers(ctx context.Context) ([]types.UID, error)
}

// Volumes makes the volumes of pods ready.
type Volumes interface {
	// Mount makes one volume ready; mounting what is mounted refreshes it.
	Mount(ctx context.Context, pod *corev1.Pod, name string) error
	// Refreshable are the names of the pod's volumes whose contents may change.
	Refreshable(pod *corev1.Pod) []string
	// Unmount unmounts and removes everything that is mounted for the pod: volumes, their subPaths,
	// /dev/shm.
	Unmount(ctx context.Context, uid types.UID) error
}

// Hooks runs lifecycle hooks. An error's text is the hook's own failure.
type Hooks interface {
	// Run runs the container's hook of that kind; host is the pod's address, for hooks over HTTP.
	Run(ctx context.Context, c *corev1.Container, containerID, host string, kind podspec.HookKind) error
}

// Prober checks running containers. Its results change without notice; it tells of that by
// Loop.Wake.
type Prober interface {
	// Sync starts the probes of newly running containers and ends those of containers that no
	// longer run. pod.Status is what the API server was told.
	Sync(pod *corev1.Pod, have runtime.Pod)
	Results(containerID string) podspec.Probes
	// Forget ends all probes of a pod.
	Forget(uid types.UID)
}

// Messages reads what containers left as their last words.
type Messages interface {
	// Message returns at most limit bytes of the exited container's message; "" when there is none.
	Message(ctx context.Context, c runtime.Container, policy corev1.TerminationMessagePolicy, limit int) string
}

// PullSecrets reads the credentials that a pod brings along for an image.
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
