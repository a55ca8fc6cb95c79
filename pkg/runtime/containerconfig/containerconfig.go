// Package containerconfig is EDGE: it gathers everything that a container is made from. From a pod,
// what the host holds of it, and an image it derives the environment (with values of ConfigMaps,
// Secrets, Services and fields of the pod), the mounts (volumes, subPaths, /etc/hosts and alike),
// the user, the cgroup and the security profiles. ocispec.Build, which is pure, then makes the
// spec.
//
// No other package writes <root>/pods/<uid> (except the volumes below it), the pods' log folders
// and the pods' /dev/shm below the run folder.
package containerconfig

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/hostfs"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume"
	"github.com/nodeagent/nodeagent/pkg/runtime"
	"github.com/nodeagent/nodeagent/pkg/runtime/ocispec"
)

// Volumes finds the volumes of pods.
type Volumes interface {
	Path(pod *corev1.Pod, name string) (string, error)
	// ReadOnly reports whether containers may only read the volume.
	ReadOnly(pod *corev1.Pod, name string) bool
	// Any reports whether the pod's volumes folder holds anything.
	Any(uid types.UID) (bool, error)
}

// Users resolves user strings in images.
type Users interface {
	User(ctx context.Context, imageID, user string) (runtime.User, error)
}

// AppArmor finds the profiles that the kernel has loaded.
type AppArmor interface {
	// Ensure returns nil if the profile is loaded; it loads the node's default one.
	Ensure(ctx context.Context, profile string) error
}

// SELinux makes labels. On a machine without SELinux all labels are empty.
type SELinux interface {
	Enabled() bool
	// Of makes the labels of a container in a pod with the labels pod.
	Of(o runtime.SELinuxOptions, pod runtime.SELinuxLabels) (runtime.SELinuxLabels, error)
	// Relabel sets the label of the file or folder at path and everything below it.
	Relabel(path, label string) error
}

// Cgroups names, finds and removes the pods' control groups.
type Cgroups interface {
	// PodPath and ContainerPath have the form that OCI runtimes expect with the node's cgroup
	// driver.
	PodPath(pod *corev1.Pod) string
	ContainerPath(pod *corev1.Pod, id string) string
	RemovePod(ctx context.Context, uid types.UID) error
	Pods() ([]types.UID, error)
}

// DNS holds the cluster's resolver settings.
type DNS struct {
	Servers    []netip.Addr
	Domain     string
	ResolvConf string // the node's resolver file; "" for none
}

// Node holds facts about this machine that rarely change.
type Node struct {
	Hostname    string // of the UTS namespace
	IPs         []netip.Addr
	Allocatable corev1.ResourceList
	Spec        ocispec.Node
	// RecursiveReadOnly is true if the kernel has mount_setattr(2), Linux 5.12.
	RecursiveReadOnly bool
	// Devices lists the devices of a privileged container. It is called at each start, since
	// devices come and go. nil: none.
	Devices func() ([]specs.LinuxDevice, error)
}

// Config configures a Builder. All folders are absolute.
type Config struct {
	Root, Run, PodLogs string
	Volumes            Volumes
	Users              Users
	Objects            volume.Objects
	Cgroups            Cgroups
	DNS                DNS
	Node               func() Node
	SeccompDefault     bool
	// Seccomp makes the profile RuntimeDefault; nil refuses containers that ask for it.
	Seccomp func(*specs.Spec) (*specs.LinuxSeccomp, error)
	// AppArmor and SELinux are the machine's; nil without.
	AppArmor AppArmor
	SELinux  SELinux
	// VolumeDir returns the folder of a container's image volumes; nil leaves image volumes out.
	VolumeDir func(containerID string) string
	// Handler returns the handler of a RuntimeClass; nil refuses every class.
	Handler func(ctx context.Context, class string) (string, error)
	// Bind mounts the subPath sub of a volume's folder at target; nil: hostfs.BindBeneath.
	Bind func(volume, sub, target string) error
	// Propagates returns an error if mounts below a host path cannot propagate as a container asks;
	// nil: by mountinfo.
	Propagates func(source string, mode corev1.MountPropagationMode) error
	// Warn reports to the pod's owner what was left out; nil only logs it.
	Warn func(pod *corev1.Pod, reason, message string)
	Log  *slog.Logger
}

// Builder is safe for concurrent use.
type Builder struct {
	config Config
	files  sync.Mutex // guards the pods' managed files, which their containers share
}

// New checks the configuration.
func New(c Config) (*Builder, error) {
	for name, path := range map[string]string{"Root": c.Root, "Run": c.Run, "PodLogs": c.PodLogs} {
		if !filepath.IsAbs(path) {
			return nil, fmt.Errorf("making container configurations: %s %q must be an absolute path", name, path)
		}
	}
	if c.Volumes == nil || c.Users == nil || c.Objects == nil || c.Cgroups == nil || c.Node == nil || c.Log == nil {
		return nil, errors.New("making container configurations: Volumes, Users, Objects, Cgroups, Node and Log are required")
	}
	if c.Bind == nil {
		c.Bind = hostfs.BindBeneath
	}
	if c.Propagates == nil {
		c.Propagates = checkPropagation
	}
	return &Builder{config: c}, nil
}

// Container returns the finished configuration. Its errors are podspec.ReasonErrors:
// CreateContainerConfigError if the pod's owner can fix the cause in the spec or in an object that
// it names, else CreateContainerError.
func (b *Builder) Container(ctx context.Context, r runtime.ContainerRequest) (runtime.ContainerConfig, error) {
	c, _ := podspec.Find(r.Pod, r.Name)
	if c == nil {
		return runtime.ContainerConfig{}, configError(fmt.Errorf("container %q is not in the pod's spec", r.Name))
	}
	if r.Runtime.Sandbox == nil {
		return runtime.ContainerConfig{}, reason("CreateContainerError", errors.New("the pod has no sandbox"))
	}
	b.config.Objects.Use(r.Pod)
	w := work{Builder: b, request: r, pod: r.Pod, container: c, target: podspec.Target(r.Pod, r.Name), node: b.config.Node()}
	if s := c.SecurityContext; s != nil && s.Privileged != nil && *s.Privileged && w.node.Devices != nil {
		devices, err := w.node.Devices()
		if err != nil {
			return runtime.ContainerConfig{}, reason("CreateContainerError", err)
		}
		w.node.Spec.Devices = devices
	}
	input, err := w.input(ctx)
	if err != nil {
		return runtime.ContainerConfig{}, configError(err)
	}
	spec, err := ocispec.Build(input)
	if err != nil {
		return runtime.ContainerConfig{}, configError(err)
	}
	if profile := spec.Process.ApparmorProfile; profile != "" && b.config.AppArmor != nil {
		if err := b.config.AppArmor.Ensure(ctx, profile); err != nil {
			return runtime.ContainerConfig{}, reason("CreateContainerError", err)
		}
	}
	handler, err := b.handler(ctx, w.pod)
	if err != nil {
		return runtime.ContainerConfig{}, configError(err)
	}
	return runtime.ContainerConfig{
		Pod:            runtime.RefOf(w.pod),
		Name:           r.Name,
		Attempt:        r.Attempt,
		Image:          r.Image,
		ImageRef:       c.Image,
		Spec:           spec,
		LogPath:        filepath.Join(b.logDir(runtime.RefOf(w.pod)), r.Name, strconv.Itoa(r.Attempt)+".log"),
		MessagePath:    w.messagePath(),
		SpecHash:       podspec.SpecHash(c),
		SpecResources:  podspec.ResourcesOf(w.pod, c).String(),
		StopSignal:     ocispec.StopSignal(c, r.Image.Config),
		Stdin:          c.Stdin,
		StdinOnce:      c.StdinOnce,
		TTY:            c.TTY,
		ImageVolumes:   ocispec.ImageVolumes(input),
		SandboxID:      r.Runtime.Sandbox.ID,
		RuntimeHandler: handler,
	}, nil
}

// Resources returns the limits that the pod spec asks for, for a container that already runs.
func (b *Builder) Resources(pod *corev1.Pod, name string) (*specs.LinuxResources, error) {
	c, _ := podspec.Find(pod, name)
	if c == nil {
		return nil, fmt.Errorf("container %q is not in the pod's spec", name)
	}
	return ocispec.Resources(pod, c, b.config.Node().Spec), nil
}

func configError(err error) error { return reason("CreateContainerConfigError", err) }

func reason(reason string, err error) error { return &podspec.ReasonError{Reason: reason, Err: err} }

func (b *Builder) handler(ctx context.Context, pod *corev1.Pod) (string, error) {
	if pod.Spec.RuntimeClassName == nil || *pod.Spec.RuntimeClassName == "" {
		return "", nil
	}
	if b.config.Handler == nil {
		return "", fmt.Errorf("runtimeClassName %q is not supported on this node", *pod.Spec.RuntimeClassName)
	}
	return b.config.Handler(ctx, *pod.Spec.RuntimeClassName)
}

// work is one call of Container.
type work struct {
	*Builder
	request   runtime.ContainerRequest
	pod       *corev1.Pod
	container *corev1.Container
	target    string
	node      Node
}

func (w work) input(ctx context.Context) (ocispec.Input, error) {
	image := w.request.Image
	user, err := w.config.Users.User(ctx, image.ID, ocispec.UserString(w.pod, w.container, image.Config))
	if err != nil {
		return ocispec.Input{}, fmt.Errorf("resolving the user of container %q in its image: %w", w.container.Name, err)
	}
	env, err := w.environment(ctx)
	if err != nil {
		return ocispec.Input{}, err
	}
	mounts, err := w.mounts(env)
	if err != nil {
		return ocispec.Input{}, err
	}
	labels, err := w.labels()
	if err != nil {
		return ocispec.Input{}, err
	}
	if err := w.relabel(mounts, labels.Mount); err != nil {
		return ocispec.Input{}, err
	}
	localhost, err := w.localhostSeccomp()
	if err != nil {
		return ocispec.Input{}, err
	}
	hostname, err := w.nodename(w.pod)
	if err != nil {
		return ocispec.Input{}, err
	}
	id := runtime.ContainerID(w.pod.UID, w.container.Name, w.request.Attempt)
	return ocispec.Input{
		Pod:         w.pod,
		Container:   w.container,
		ID:          id,
		SandboxID:   w.request.Runtime.Sandbox.ID,
		Image:       image.Config,
		User:        user,
		Env:         env,
		Mounts:      mounts,
		VolumeDir:   w.volumeDir(id),
		Namespaces:  w.request.Runtime.Sandbox.Namespaces,
		TargetPID:   w.targetPID(),
		Hostname:    hostname,
		CgroupsPath: w.config.Cgroups.ContainerPath(w.pod, id),
		Seccomp: ocispec.Seccomp{
			Default: w.config.SeccompDefault, RuntimeDefault: w.config.Seccomp, Localhost: localhost,
		},
		SELinux: labels,
		Node:    w.node.Spec,
	}, nil
}

func (w work) volumeDir(id string) string {
	if w.config.VolumeDir == nil {
		return ""
	}
	return w.config.VolumeDir(id)
}

// targetPID is the PID namespace of the running container that an ephemeral container targets.
func (w work) targetPID() string {
	if w.target == "" {
		return ""
	}
	if c := w.request.Runtime.Latest(w.target); c != nil && c.State == runtime.Running && c.Pid > 0 {
		return fmt.Sprintf("/proc/%d/ns/pid", c.Pid)
	}
	return ""
}
