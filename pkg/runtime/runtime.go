// Package runtime is a CONTRACT: what the pods half needs of a program that runs containers.
// Package containerd implements it; an embedder may pass the agent another implementation.
//
// # The words
//
// An Image is a set of layers and a config in the runtime's store.
//
// A Sandbox is what the containers of one pod share: its network, IPC and UTS namespaces, and with
// shareProcessNamespace a PID namespace, whose process 1 is the reaper. Namespaces are pinned, that
// is, kept alive by a bind mount of their file. A sandbox is Ready while all of them exist.
//
// A Container is one attempt to run one container of the pod spec. Attempts are numbered from 0;
// each restart is a new Container. Its record is what the runtime stores about it until it is
// removed; its State is Created, Running, Exited or Unknown.
//
// # The life of a sandbox
//
// StartSandbox pins the namespaces and connects the network; the sandbox then has its addresses and
// is Ready. Containers start and exit in it. It stops being Ready when a namespace is lost: all of
// them at a reboot, the PID namespace when its reaper dies. A sandbox that is not Ready is never
// repaired. The caller removes its containers and starts the next attempt, which replaces it.
// RemoveSandbox disconnects the network and unpins the namespaces; it is for a pod whose containers
// have exited.
//
// # The life of a container
//
// The caller has an Image, from Image or Pull, and a finished OCI spec that names the sandbox's
// namespaces. StartContainer writes the record, prepares the root file system and the image's
// volumes, and starts the process: the container is Running, and its output goes to LogPath. If the
// process cannot be started, as when the program is missing, StartContainer returns no error but a
// container that is Exited with a StartError: that is the container's fault, not the runtime's.
//
// Exec and Attach work while the container is Running, and UpdateResources changes its limits.
// Signal asks it to exit. When it does, for whatever reason, the runtime records exit code and
// time, Watch sends the pod's UID, and from then on Get returns it as Exited, with its whole output
// in the log. The record stays until RemoveContainer deletes it with root file system, volumes and
// log; the pods half keeps the latest attempt and the one before.
//
// # The rules
//
// Every call is idempotent: starting what runs returns it unchanged, removing what does not exist
// is no error.
//
// Ids are functions of pod UID, container name and attempt (see ContainerID). After a call that
// failed, timed out or was interrupted by a crash, the same call continues from what exists; the
// runtime never refuses it because an id is taken.
//
// The host is the database: an implementation rebuilds all of its answers from records on the host,
// so that nothing is lost when the agent restarts.
//
// A caller's context bounds its waiting. Work that must not stop half way goes on without the
// caller, and the next call for the same object waits for it.
//
// ErrUnavailable means that the runtime did not answer. It says nothing about the container, and
// the caller tries again.
//
// # Implementing it
//
// Runtime is the whole contract, made of roles; consumers ask for the smallest role. Powers that a
// runtime may lack are in powers.go. Package runtimetest is the suite that an implementation must
// pass; package fakeruntime is an implementation in memory that passes it.
package runtime

import (
	"context"
	"io"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"k8s.io/apimachinery/pkg/types"
)

// Pods tells what the host holds.
type Pods interface {
	// List returns every pod with a sandbox or a container, in order of UID.
	List(ctx context.Context) ([]Pod, error)
	// Get returns one pod, or the zero Pod if the host holds nothing of it. It answers from memory,
	// which the runtime keeps current by its events and by the calls below, so it is cheap.
	Get(ctx context.Context, uid types.UID) (Pod, error)
	// Watch sends the UID of each pod that may have changed; the receiver calls Get. The channel
	// closes when ctx ends, or when changes may have been missed: the receiver then calls Watch
	// again and List.
	Watch(ctx context.Context) (<-chan types.UID, error)
}

// Lifecycle starts and removes sandboxes and containers.
type Lifecycle interface {
	// StartSandbox returns a sandbox that is Ready. An older attempt is removed first.
	StartSandbox(ctx context.Context, c SandboxConfig) (Sandbox, error)
	// StartContainer creates and starts one attempt. Unless it fails, the container is Running, or
	// Exited with a StartError.
	StartContainer(ctx context.Context, c ContainerConfig) (Container, error)
	// Signal does not wait for the container to exit. Signalling a container that does not run is
	// no error.
	Signal(ctx context.Context, containerID string, sig syscall.Signal) error
	// RemoveContainer kills the container if it runs, and removes everything that StartContainer
	// has made.
	RemoveContainer(ctx context.Context, containerID string) error
	// RemoveSandbox removes everything that StartSandbox has made, even if the namespaces are gone,
	// as after a reboot.
	RemoveSandbox(ctx context.Context, uid types.UID) error
}

// Resizer changes the limits of running containers.
type Resizer interface {
	// UpdateResources changes the limits that r names and leaves the others. From then on
	// Container.Resources has the new limits and Container.SpecResources is specResources, for a
	// later agent too. A memory limit below current usage is refused with an error, and nothing
	// changes. A container that does not run is left as it is, which is no error.
	UpdateResources(ctx context.Context, containerID, specResources string, r *specs.LinuxResources) error
}

// Images is the runtime's image store.
type Images interface {
	// Image finds an image by any reference that a pod may name, such as a tag, a digest or an
	// image id. It returns ErrNotFound if the store does not have it.
	Image(ctx context.Context, ref string) (Image, error)
	// Pull fetches and unpacks an image. It tries the credentials in order, then none.
	Pull(ctx context.Context, ref string, auth []Credentials) (Image, error)
	// Images lists the store.
	Images(ctx context.Context) ([]Image, error)
	// RemoveImage deletes an image under all of its names.
	RemoveImage(ctx context.Context, id string) error
	// User resolves a user string ("", "1000", "app", "1000:1000", "app:group") in the image's
	// /etc/passwd and /etc/group.
	User(ctx context.Context, imageID, user string) (User, error)
}

// Streams runs processes in containers and connects to running ones.
type Streams interface {
	// Exec runs one process to its end. If the process ran, it returns its exit code and no error,
	// or ErrOutputCut if not all of its output was taken. If ctx ends first, it returns ctx's
	// error, and the process is killed and removed.
	Exec(ctx context.Context, containerID string, x ExecConfig) (exitCode int, err error)
	// Attach connects to the streams of the main process until it ends or ctx does.
	Attach(ctx context.Context, containerID string, io IO) error
}

// Runtime is the whole contract.
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

// ExecConfig describes one process to run in a container.
type ExecConfig struct {
	Command []string
	IO      IO
	// Gone, if not nil, is called once, when nothing is left of the process. That may be long after
	// Exec has returned: a process that hangs in the kernel cannot be killed.
	Gone func()
}
