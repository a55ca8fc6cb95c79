// Package ocispec is PURE: it builds a finished OCI runtime spec from a pod, a container, the
// image's config and what was resolved for them (user, environment, mounts, cgroup, namespaces). It
// uses nothing but its Input; a runtime runs the result as it is.
//
// Sources of the rules: the OCI runtime spec 1.3, Kubernetes' API reference of PodSecurityContext
// and SecurityContext, KEP-3619 (supplementalGroupsPolicy), KEP-3857 (recursive read-only mounts),
// KEP-127 (user namespaces).
package ocispec

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// groupAnnotation tells containerd's runc shim which containers share a shim process.
const groupAnnotation = "io.containerd.runc.v2.group"

// Input is one attempt of one container with everything resolved.
type Input struct {
	Pod       *corev1.Pod
	Container *corev1.Container // of an ephemeral container, its EphemeralContainerCommon
	ID        string
	SandboxID string // its containers share a shim; "" for a separate shim
	Image     imagespec.ImageConfig
	// User is the security context's user, or else the image's, resolved in the image; see
	// UserString.
	User runtime.User
	// Env is the pod spec's part of the environment: "NAME=value" with all references resolved. It
	// wins over the image's.
	Env []string
	// Mounts are volumes and managed files, in the order of the pod spec.
	Mounts []Mount
	// VolumeDir is the folder for the image's volumes; "" leaves them out.
	VolumeDir  string
	Namespaces runtime.Namespaces
	// TargetPID is the PID namespace that an ephemeral container joins; "" for none.
	TargetPID string
	// Hostname is the value of HOSTNAME; the host name itself belongs to the UTS namespace.
	Hostname string
	// CgroupsPath has the form of the node's cgroup driver.
	CgroupsPath string
	Annotations map[string]string
	Seccomp     Seccomp
	// SELinux holds the container's labels; empty on a machine without SELinux.
	SELinux runtime.SELinuxLabels
	// IDs map the pod's user namespace; empty without one.
	IDs  IDMappings
	Node Node
}

// Mount is one bind mount of a host path.
type Mount struct {
	Source, Destination string // absolute; the source exists
	ReadOnly            bool
	RecursiveReadOnly   bool // read-only also for mounts below the source
	// Propagation defaults to None.
	Propagation corev1.MountPropagationMode
	// Managed marks the agent's own mounts (/etc/hosts, /dev/shm …), which a volume at the same
	// path replaces.
	Managed bool
}

// Seccomp holds the profiles that a container may use.
type Seccomp struct {
	// Default applies RuntimeDefault to containers that name no profile
	// (KubeletConfiguration.seccompDefault).
	Default bool
	// RuntimeDefault derives the default profile from a spec whose capabilities are set; nil if not
	// available.
	RuntimeDefault func(*specs.Spec) (*specs.LinuxSeccomp, error)
	// Localhost is the content of the container's localhostProfile; nil if it names none.
	Localhost *specs.LinuxSeccomp
}

// IDMappings are the mappings of a user namespace.
type IDMappings struct {
	UIDs, GIDs []specs.LinuxIDMapping
}

// Node holds facts and settings of the machine.
type Node struct {
	MemoryCapacity int64 // bytes
	// MinOOMScoreAdj is the lowest oom_score_adj that the agent may give (its own, without
	// CAP_SYS_RESOURCE).
	MinOOMScoreAdj int
	CgroupV2       bool
	// CPUQuotaPeriod is the period of CPU limits in microseconds; 0: limits are not enforced.
	CPUQuotaPeriod int64
	// Capabilities are those of a privileged container ("CAP_…"); if empty, all that this package
	// knows.
	Capabilities []string
	// Devices are those of a privileged container.
	Devices []specs.LinuxDevice
	// HugePageSizes are the sizes ("2MB") that the hugetlb controller limits; empty without the
	// controller.
	HugePageSizes []string
	// SwapControl is true if cgroups can limit swap; containers then get none.
	SwapControl          bool
	SingleProcessOOMKill bool
	// MaskedPaths are masked in addition to the default ones.
	MaskedPaths []string
	// AppArmor is the loaded profile for containers that name none; "" without AppArmor.
	AppArmor string
	// CgroupMountOptions are those options of the machine's cgroup v2 mount that all of its mounts
	// share ("nsdelegate"): a mount without them removes them from the machine's.
	CgroupMountOptions []string
}

// Build builds the spec. Its errors are the pod author's to fix.
func Build(in Input) (*specs.Spec, error) {
	if in.Pod == nil || in.Container == nil {
		return nil, errors.New("building spec: pod or container is missing")
	}
	sc := effective(in.Pod, in.Container)
	if err := checkNonRoot(in, sc); err != nil {
		return nil, err
	}
	process, err := process(in, sc)
	if err != nil {
		return nil, err
	}
	mounts, propagation, err := mounts(in, sc)
	if err != nil {
		return nil, err
	}
	spec := &specs.Spec{
		Version:     specs.Version,
		Process:     process,
		Root:        &specs.Root{Path: "rootfs", Readonly: isTrue(sc.ReadOnlyRootFilesystem)},
		Mounts:      mounts,
		Annotations: annotations(in),
		Linux: &specs.Linux{
			UIDMappings:       in.IDs.UIDs,
			GIDMappings:       in.IDs.GIDs,
			CgroupsPath:       in.CgroupsPath,
			Namespaces:        namespaces(in, sc),
			Resources:         resources(in, sc),
			RootfsPropagation: propagation,
			MountLabel:        in.SELinux.Mount,
		},
	}
	if isTrue(sc.Privileged) {
		spec.Linux.Devices = in.Node.Devices
	} else {
		process.SelinuxLabel = in.SELinux.Process
	}
	hidePaths(spec, in.Node, sc)
	if err := confine(spec, in, sc); err != nil {
		return nil, fmt.Errorf("building spec of container %q: %w", in.Container.Name, err)
	}
	return spec, nil
}

func annotations(in Input) map[string]string {
	all := maps.Clone(in.Annotations)
	if in.SandboxID != "" {
		if all == nil {
			all = map[string]string{}
		}
		all[groupAnnotation] = in.SandboxID
	}
	return all
}

// namespaces returns new mount and PID namespaces and the pinned ones to join; "" in
// runtime.Namespaces is the host's.
func namespaces(in Input, sc *corev1.SecurityContext) []specs.LinuxNamespace {
	list := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	add := func(kind specs.LinuxNamespaceType, path string) {
		if path != "" {
			list = append(list, specs.LinuxNamespace{Type: kind, Path: path})
		}
	}
	switch {
	case in.Pod.Spec.HostPID:
	case in.TargetPID != "":
		add(specs.PIDNamespace, in.TargetPID)
	case in.Namespaces.PID != "":
		add(specs.PIDNamespace, in.Namespaces.PID)
	default:
		list = append(list, specs.LinuxNamespace{Type: specs.PIDNamespace})
	}
	add(specs.NetworkNamespace, in.Namespaces.Net)
	add(specs.IPCNamespace, in.Namespaces.IPC)
	add(specs.UTSNamespace, in.Namespaces.UTS)
	add(specs.UserNamespace, in.Namespaces.User)
	if in.Node.CgroupV2 && !isTrue(sc.Privileged) {
		list = append(list, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return list
}

// effective merges the container's security context over the pod's.
func effective(pod *corev1.Pod, c *corev1.Container) *corev1.SecurityContext {
	out := &corev1.SecurityContext{}
	if c.SecurityContext != nil {
		out = c.SecurityContext.DeepCopy()
	}
	out.AppArmorProfile = AppArmor(pod, c)
	p := pod.Spec.SecurityContext
	if p == nil {
		return out
	}
	out.RunAsUser = first(out.RunAsUser, p.RunAsUser)
	out.RunAsGroup = first(out.RunAsGroup, p.RunAsGroup)
	out.RunAsNonRoot = first(out.RunAsNonRoot, p.RunAsNonRoot)
	out.SELinuxOptions = first(out.SELinuxOptions, p.SELinuxOptions)
	out.SeccompProfile = first(out.SeccompProfile, p.SeccompProfile)
	return out
}

func first[T any](a, b *T) *T {
	if a != nil {
		return a
	}
	return b
}

func isTrue(b *bool) bool { return b != nil && *b }

// UserString is the user to resolve in the image: the security context's ids, or else the image's
// user.
func UserString(pod *corev1.Pod, c *corev1.Container, image imagespec.ImageConfig) string {
	sc := effective(pod, c)
	user := image.User
	if sc.RunAsUser != nil {
		user = fmt.Sprint(*sc.RunAsUser)
	}
	if sc.RunAsGroup != nil {
		name, _, _ := cut(user)
		user = fmt.Sprintf("%s:%d", orZero(name), *sc.RunAsGroup)
	}
	return user
}

func orZero(name string) string {
	if name == "" {
		return "0"
	}
	return name
}

func sorted(set map[string]bool) []string { return slices.Sorted(maps.Keys(set)) }
