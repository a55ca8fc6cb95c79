// Package runtime is a CONTRACT: what the pods half asks of the program that runs containers.
//
// # The words
//
// An Image is a set of layers and a config in the runtime's store. A Sandbox is what the containers
// of one pod share: the pinned network, IPC and UTS namespaces (and, with shareProcessNamespace, a
// PID namespace kept by a reaping process). A Container is one attempt to run one container of the
// pod spec.
//
// # A life
//
// StartSandbox pins namespaces and sets up the network, and is followed by StartContainer for each
// container, which creates the container record, its snapshot and its task, and starts it. Signal
// asks a running container to end; its exit is seen by Watch, recorded by the runtime, and from
// then on Get says Exited. RemoveContainer deletes record, snapshot and logs' pipes; RemoveSandbox
// tears the network down and unpins the namespaces.
//
// # The rules
//
// Every call is idempotent: starting what runs returns it as it is, removing what is gone is no
// error. Ids are functions of pod UID, name and attempt (see ContainerID), so that a call which
// timed out half way is followed by adoption. What exists is rebuilt from the host alone: nothing
// is known only by the agent's memory.
package runtime

import (
	"context"
	"io"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"k8s.io/apimachinery/pkg/types"
)

// Pods is the only source of what runs; it is rebuilt from the runtime's records alone.
type Pods interface {
	// List returns every pod with a sandbox or a container, in order of UID.
	List(ctx context.Context) ([]Pod, error)
	// Get returns one pod; the zero Pod when nothing of it is known. It answers from memory that is
	// kept current by the runtime's events and by the calls below, so that it costs no round trip.
	Get(ctx context.Context, uid types.UID) (Pod, error)
	// Watch sends the UID of each pod whose state may have changed. They are hints: look again. The
	// channel closes when the connection to the runtime was lost; the receiver lists again and
	// calls Watch anew.
	Watch(ctx context.Context) (<-chan types.UID, error)
}

// Lifecycle starts and ends sandboxes and containers.
type Lifecycle interface {
	StartSandbox(ctx context.Context, c SandboxConfig) (Sandbox, error)
	// StartContainer creates and starts one attempt; c.Spec is a finished OCI spec.
	StartContainer(ctx context.Context, c ContainerConfig) (Container, error)
	// Signal never waits for the container to end: waiting is the plan's job. Signalling an exited
	// container is no error.
	Signal(ctx context.Context, containerID string, sig syscall.Signal) error
	// RemoveContainer removes record, snapshot and pipes; a running container is killed first.
	RemoveContainer(ctx context.Context, containerID string) error
	// RemoveSandbox runs CNI DEL (also when the namespaces are gone, as after a reboot) and unpins
	// the namespaces.
	RemoveSandbox(ctx context.Context, uid types.UID) error
}

// Resizer changes the limits of running containers.
type Resizer interface {
	// UpdateResources changes the limits that r names and leaves the others; sizes is what r was
	// made from. Container.Resources and Sizes say so from then on, also to a later agent. A memory
	// limit below what the container uses is refused with an error that changes nothing. A
	// container that does not run is left as it is, which is no error.
	UpdateResources(ctx context.Context, containerID, sizes string, r *specs.LinuxResources) error
}

// Images is the runtime's image store.
type Images interface {
	// Image finds an image by any reference a pod may name (also a digest or an image id), unpacked
	// or not; ErrNotFound if absent.
	Image(ctx context.Context, ref string) (Image, error)
	// Pull fetches and unpacks; credentials are tried in order, then none.
	Pull(ctx context.Context, ref string, auth []Credentials) (Image, error)
	Images(ctx context.Context) ([]Image, error)
	// RemoveImage deletes every reference of one image id.
	RemoveImage(ctx context.Context, id string) error
	// User resolves a user string ("", "1000", "app", "1000:1000", "app:group") in the image's
	// /etc/passwd and /etc/group.
	User(ctx context.Context, imageID, user string) (User, error)
}

// Streams runs and joins processes in containers.
type Streams interface {
	// Exec runs one process to its end. A process that ran returns its exit code and no error, or
	// ErrOutputCut when not all of its output was taken. When ctx ends first, ctx's error is
	// returned, and the process is killed and removed.
	Exec(ctx context.Context, containerID string, x ExecConfig) (exitCode int, err error)
	// Attach joins the main process's streams until it ends or ctx does.
	Attach(ctx context.Context, containerID string, io IO) error
}

// Runtime is the whole contract; consumers ask for the smallest role they need.
type Runtime interface {
	Pods
	Lifecycle
	Resizer
	Images
	Streams
}

// IO are a process's streams; nil means closed. Resize delivers terminal sizes while the process
// runs.
type IO struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	TTY            bool
	Resize         <-chan TerminalSize
}

// TerminalSize is in characters.
type TerminalSize struct{ Width, Height uint16 }

// ExecConfig is one process to run in a container.
type ExecConfig struct {
	Command []string
	IO      IO
	// Gone, when not nil, is called once, when nothing is left of the process. That may be long
	// after Exec has returned: a process that hangs in the kernel cannot be killed.
	Gone func()
}
