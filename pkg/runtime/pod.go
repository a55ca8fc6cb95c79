package runtime

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"k8s.io/apimachinery/pkg/types"
)

// Errors that callers tell apart with errors.Is.
var (
	// ErrNotFound means that the image or container does not exist.
	ErrNotFound = errors.New("not found")
	// ErrUnavailable means that the runtime itself did not answer: the node is not ready, no
	// container is to blame.
	ErrUnavailable = errors.New("container runtime is not available")
	// ErrNetworkNotReady means that no usable CNI configuration exists yet.
	ErrNetworkNotReady = errors.New("network is not ready")
	// ErrOutputCut means that a process ended and its exit code is known, but that its output was
	// not taken to the end.
	ErrOutputCut = errors.New("output is cut short")
)

// ContainerID is the id of one attempt of one container: 64 hex digits, a function of its arguments
// alone.
func ContainerID(uid types.UID, name string, attempt int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s/%s/%d", uid, name, attempt))
	return hex.EncodeToString(sum[:])
}

// SandboxID is the id of one attempt of a pod's sandbox. Container names are never empty, so it
// meets no ContainerID.
func SandboxID(uid types.UID, attempt int) string { return ContainerID(uid, "", attempt) }

// PodRef names a pod to the runtime.
type PodRef struct {
	UID             types.UID
	Namespace, Name string
}

// Pod is what the host holds of one pod.
type Pod struct {
	PodRef
	Sandbox *Sandbox // nil if none
	// Containers has every attempt that still has a record, in order of name, then attempt.
	Containers []Container
}

// Empty says that the host holds nothing of the pod.
func (p Pod) Empty() bool { return p.Sandbox == nil && len(p.Containers) == 0 }

// Latest returns the container's newest attempt, or nil.
func (p Pod) Latest(name string) *Container {
	var found *Container
	for i := range p.Containers {
		if c := &p.Containers[i]; c.Name == name && (found == nil || c.Attempt > found.Attempt) {
			found = c
		}
	}
	return found
}

// Previous returns the attempt before the newest one that still has a record, or nil.
func (p Pod) Previous(name string) *Container {
	latest := p.Latest(name)
	var found *Container
	for i := range p.Containers {
		c := &p.Containers[i]
		if c.Name == name && c.Attempt < latest.Attempt && (found == nil || c.Attempt > found.Attempt) {
			found = c
		}
	}
	return found
}

// Sandbox is one attempt of a pod's shared namespaces.
type Sandbox struct {
	ID      string
	Attempt int
	// Ready is false when the namespaces are gone (a reboot) or the shared PID namespace's process
	// ended.
	Ready       bool
	HostNetwork bool
	IPs         []netip.Addr // pod addresses, primary first; empty with HostNetwork
	CreatedAt   time.Time
	Namespaces  Namespaces
	// SELinux are the labels of containers that ask for none of their own; empty where the machine
	// has no SELinux.
	SELinux SELinuxLabels
}

// SELinuxLabels are those of a process and of the files that it may change.
type SELinuxLabels struct{ Process, Mount string }

// SELinuxOptions are parts of a label; an empty one is the machine's default, or for Level one that
// no other pod has.
type SELinuxOptions struct{ User, Role, Type, Level string }

// Namespaces are paths of pinned namespace files; "" means the host's own.
type Namespaces struct {
	Net, IPC, UTS string
	PID           string // only with shareProcessNamespace
	User          string
}

// NamespacePaths are where the namespaces of a sandbox are pinned, below its pod's run folder. The
// paths of those that it shares with the host are "".
func NamespacePaths(dir string, c SandboxConfig) Namespaces {
	var ns Namespaces
	if !c.HostNetwork { // whoever shares the host's network also has its name
		ns.Net, ns.UTS = filepath.Join(dir, "net"), filepath.Join(dir, "uts")
	}
	if !c.HostIPC {
		ns.IPC = filepath.Join(dir, "ipc")
	}
	if c.ShareProcessNamespace && !c.HostPID {
		ns.PID = filepath.Join(dir, "pid")
	}
	return ns
}

// PortMapping is one hostPort, for CNI's portMappings capability.
type PortMapping struct {
	HostPort, ContainerPort int32
	Protocol                string // "tcp", "udp", "sctp"
	HostIP                  string
}

// SandboxConfig is what a sandbox is made from.
type SandboxConfig struct {
	Pod                           PodRef
	Attempt                       int
	Hostname                      string // in the UTS namespace, at most 64 bytes
	HostNetwork, HostPID, HostIPC bool
	ShareProcessNamespace         bool
	Ports                         []PortMapping
	Sysctls                       map[string]string // set inside the network and IPC namespaces
	CgroupParent                  string            // the pod's cgroup, for the reaping process
	// the pod's own; CNI reads kubernetes.io/{in,e}gress-bandwidth
	Annotations                       map[string]string
	RuntimeHandler                    string
	SELinux                           SELinuxOptions
	IngressBandwidth, EgressBandwidth int64 // bits per second, 0 for none
}

// State is the state of a container.
type State string

// A container is Created for the moment between its record and its start, then Running, then
// Exited. Unknown is a container whose task cannot be asked.
const (
	Created State = "Created"
	Running State = "Running"
	Exited  State = "Exited"
	Unknown State = "Unknown"
)

// Container is one attempt of a container.
type Container struct {
	ID      string
	Name    string // of the container in the pod spec
	Attempt int    // 0 for the first; the restart count
	// SandboxID is the sandbox whose namespaces it was made in.
	SandboxID string
	State     State
	Pid       int
	Image     string // the reference that the pod spec named
	ImageID   string // image id of the store
	Recorded

	CreatedAt, StartedAt, FinishedAt time.Time // zero when not yet

	ExitCode  int  // when Exited: 0 to 255, 128+n after signal n
	OOMKilled bool // the kernel killed a process of it for memory
	// StartError is why the container never ran (a missing command, a refused mount): Exited with
	// code 128.
	StartError string
	SpecHash   string // of the container in the pod spec that it was made from
	LogPath    string // the CRI-format log file
	// MessagePath is the host path of its termination message file, "" if none.
	MessagePath string
	Resources   *specs.LinuxResources // as last applied
	// Sizes are the requests and limits that Resources were made from, as podspec.Resources writes
	// them; the runtime only keeps them.
	Sizes string
}

// Recorded is what a container was made with that nobody else may know later: its image's names may
// have moved on, and its pod's object may be gone.
type Recorded struct {
	// ImageDigest is where the image came from, "repo@sha256:…", as status.imageID wants it; the
	// image id when it came from nowhere.
	ImageDigest string
	// StopSignal asks the container to end ("SIGQUIT", "3"); "" for SIGTERM.
	StopSignal string
}

// ContainerConfig is what a container is made from.
type ContainerConfig struct {
	Pod         PodRef
	Name        string
	Attempt     int
	Image       Image
	ImageRef    string // as in the pod spec
	Spec        *specs.Spec
	LogPath     string
	MessagePath string
	SpecHash    string
	Sizes       string // as in Container
	StopSignal  string // as in Recorded
	Stdin       bool   // keep stdin open for attach
	StdinOnce   bool
	TTY         bool
	// ImageVolumes are folders of the container's own that Spec mounts. They are made before the
	// container starts, with what the image has at their place, and removed with it.
	ImageVolumes []ImageVolume
	// SandboxID groups the pod's containers in one shim.
	SandboxID      string
	RuntimeHandler string
}

// ImageVolume is a VOLUME of an image: the folder Source of the host is at Destination in the
// container.
type ImageVolume struct{ Source, Destination string }

// ID is the container's id.
func (c ContainerConfig) ID() string { return ContainerID(c.Pod.UID, c.Name, c.Attempt) }

// Image is one image of the store.
type Image struct {
	ID      string   // "sha256:…" of the config
	Tags    []string // references "repo:tag"
	Digests []string // references "repo@sha256:…"
	Size    int64    // bytes, of the content as pulled
	Config  imagespec.ImageConfig
	Pinned  bool // never collected
}

// Credentials are one way to log in to a registry.
type Credentials struct {
	Username, Password, IdentityToken, RegistryToken, Server string
}

// RegistryHost gives Docker Hub, which has many names, one of them; every other registry's host is
// its own.
func RegistryHost(host string) string {
	switch host {
	case "docker.io", "index.docker.io", "registry.docker.io", "registry-1.docker.io", "registry.hub.docker.com":
		return "docker.io"
	}
	return host
}

// User is a user string resolved in an image.
type User struct {
	UID, GID uint32
	Groups   []uint32 // supplementary, from /etc/group
	Name     string   // "" when the image does not name the uid
	Home     string
}
