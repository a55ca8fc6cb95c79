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
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Errors that callers distinguish with errors.Is.
var (
	// ErrNotFound means that the image or container does not exist.
	ErrNotFound = errors.New("not found")
	// ErrUnavailable means that the runtime did not answer. The node is not ready; no container is
	// to blame.
	ErrUnavailable = errors.New("container runtime is not available")
	// ErrNetworkNotReady means that no usable CNI configuration exists yet.
	ErrNetworkNotReady = errors.New("network is not ready")
	// ErrOutputCut means that a process has ended and its exit code is known, but its output is
	// incomplete.
	ErrOutputCut = errors.New("output is cut short")
)

// ContainerID is the id of one attempt of one container: 64 hex digits, computed from the arguments
// alone.
func ContainerID(uid types.UID, name string, attempt int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s/%s/%d", uid, name, attempt))
	return hex.EncodeToString(sum[:])
}

// SandboxID is the id of one attempt of a pod's sandbox. It never equals a ContainerID, because
// container names are not empty.
func SandboxID(uid types.UID, attempt int) string { return ContainerID(uid, "", attempt) }

// PodRef names a pod to the runtime.
type PodRef struct {
	UID             types.UID
	Namespace, Name string
}

// RefOf names a pod of the API to the runtime.
func RefOf(pod metav1.Object) PodRef {
	return PodRef{UID: pod.GetUID(), Namespace: pod.GetNamespace(), Name: pod.GetName()}
}

// Key names the pod in logs and messages: namespace/name.
func (r PodRef) Key() string { return r.Namespace + "/" + r.Name }

// Pod is what the host holds of one pod.
type Pod struct {
	PodRef
	Sandbox *Sandbox // nil if none
	// Containers holds every attempt that has a record, in order of name, then attempt.
	Containers []Container
}

// Empty reports whether the host holds nothing of the pod.
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

// Previous returns the newest attempt before the latest one that has a record, or nil.
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
	// Ready is false if a namespace is gone: after a reboot, or because the reaper of the shared
	// PID namespace died.
	Ready       bool
	HostNetwork bool
	IPs         []netip.Addr // pod addresses, primary first; empty with HostNetwork
	CreatedAt   time.Time
	Namespaces  Namespaces
	// SELinux are the labels of containers without options of their own; empty on a machine without
	// SELinux.
	SELinux SELinuxLabels
}

// SELinuxLabels are the label of a process and that of the files it may change.
type SELinuxLabels struct{ Process, Mount string }

// SELinuxOptions are parts of a label. An empty part is the machine's default, except Level, which
// becomes one that no other pod has.
type SELinuxOptions struct{ User, Role, Type, Level string }

// Namespaces are paths of pinned namespace files; "" means the host's own.
type Namespaces struct {
	Net, IPC, UTS string
	PID           string // only with shareProcessNamespace
	User          string
}

// NamespacePaths returns where a sandbox's namespaces are pinned, below its pod's run folder; ""
// for those that it shares with the host.
func NamespacePaths(dir string, c SandboxConfig) Namespaces {
	var ns Namespaces
	if !c.HostNetwork { // pods in the host network have the host's name too
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

// PortMapping is one hostPort, in terms of CNI's portMappings capability.
type PortMapping struct {
	HostPort, ContainerPort int32
	Protocol                string // "tcp", "udp", "sctp"
	HostIP                  string
}

// SandboxConfig describes a sandbox.
type SandboxConfig struct {
	Pod                           PodRef
	Attempt                       int
	Hostname                      string // in the UTS namespace, at most 64 bytes
	HostNetwork, HostPID, HostIPC bool
	ShareProcessNamespace         bool
	Ports                         []PortMapping
	Sysctls                       map[string]string // set inside the network and IPC namespaces
	CgroupParent                  string            // the pod's cgroup, for the reaper
	// of the pod; CNI reads kubernetes.io/{in,e}gress-bandwidth
	Annotations                       map[string]string
	RuntimeHandler                    string
	SELinux                           SELinuxOptions
	IngressBandwidth, EgressBandwidth int64 // bits per second, 0 for none
}

// State is the state of a container.
type State string

// A container is Created between its record and its start, then Running, then Exited. Unknown means
// that the runtime cannot tell whether it runs.
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
	// SandboxID is the sandbox that it runs in.
	SandboxID string
	State     State
	Pid       int
	Image     string // the reference that the pod spec named
	ImageID   string // image id of the store
	Recorded

	CreatedAt, StartedAt, FinishedAt time.Time // zero when not yet

	ExitCode  int  // when Exited: 0 to 255, 128+n after signal n
	OOMKilled bool // the kernel killed a process of it for lack of memory
	// StartError says why the container never ran (a missing command, a refused mount); it is then
	// Exited with code 128.
	StartError string
	SpecHash   string // hash of the container in the pod spec that it was made from
	LogPath    string // the CRI-format log file
	// MessagePath is the host path of the termination message file, "" if none.
	MessagePath string
	Resources   *specs.LinuxResources // as last applied
	// SpecResources are the requests and limits of the pod spec that Resources were computed from,
	// in podspec.Resources' format. The runtime only stores them.
	SpecResources string
}

// Recorded is what a container was made with and cannot be found out later: its image's tags may
// have moved, and its pod object may be gone.
type Recorded struct {
	// ImageDigest is where the image was pulled from, "repo@sha256:…", for status.imageID; the
	// image id if it was not pulled.
	ImageDigest string
	// StopSignal is the signal that asks the container to exit ("SIGQUIT", "3"); "" for SIGTERM.
	StopSignal string
}

// ContainerConfig describes one attempt of a container.
type ContainerConfig struct {
	Pod           PodRef
	Name          string
	Attempt       int
	Image         Image
	ImageRef      string // as in the pod spec
	Spec          *specs.Spec
	LogPath       string
	MessagePath   string
	SpecHash      string
	SpecResources string // as in Container
	StopSignal    string // as in Recorded
	Stdin         bool   // keep stdin open for attach
	StdinOnce     bool
	TTY           bool
	// ImageVolumes are folders that Spec mounts. They are created before the container starts,
	// filled with the image's content, and removed with the container.
	ImageVolumes []ImageVolume
	// SandboxID is the sandbox that the container runs in.
	SandboxID      string
	RuntimeHandler string
}

// ImageVolume is a VOLUME of an image: the host folder Source is mounted at Destination in the
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
	Pinned  bool // never removed by image collection
}

// Credentials are one way to log in to a registry.
type Credentials struct {
	Username, Password, IdentityToken, RegistryToken, Server string
}

// RegistryHost maps all names of Docker Hub to one, and returns other hosts unchanged.
func RegistryHost(host string) string {
	switch host {
	case "docker.io", "index.docker.io", "registry.docker.io", "registry-1.docker.io", "registry.hub.docker.com":
		return "docker.io"
	}
	return host
}

// User is a user of an image.
type User struct {
	UID, GID uint32
	Groups   []uint32 // supplementary, from /etc/group
	Name     string   // "" if the image has no name for the uid
	Home     string
}
