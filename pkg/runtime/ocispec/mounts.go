package ocispec

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// systemMounts returns the mounts that every Linux program expects.
func systemMounts(n Node, sc *corev1.SecurityContext) []specs.Mount {
	cgroup := []string{"nosuid", "noexec", "nodev", "relatime", "ro"}
	if isTrue(sc.Privileged) {
		cgroup[4] = "rw"
		// The mount is in the machine's cgroup namespace, so its options apply to the machine's
		// mount too.
		cgroup = append(cgroup, n.CgroupMountOptions...)
	}
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{
			Destination: "/dev/pts", Type: "devpts", Source: "devpts",
			Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"},
		},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		// A network namespace has a single sysfs: with "ro", the first mount would make it
		// read-only for all containers of the pod, even privileged ones. hidePaths makes it
		// read-only where needed.
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "rw"}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: cgroup},
	}
}

// ImageVolumes returns the folders for the image's VOLUME declarations, in order of destination,
// except where the pod itself mounts something.
func ImageVolumes(in Input) []runtime.ImageVolume {
	taken := map[string]bool{}
	for _, m := range in.Mounts {
		taken[path.Clean(m.Destination)] = true
	}
	var list []runtime.ImageVolume
	if in.VolumeDir == "" {
		return nil
	}
	for _, declared := range slices.Sorted(maps.Keys(in.Image.Volumes)) {
		place := path.Join("/", declared)
		if place == "/" || taken[place] {
			continue
		}
		taken[place] = true
		list = append(list, runtime.ImageVolume{Source: path.Join(in.VolumeDir, strconv.Itoa(len(list))), Destination: place})
	}
	return list
}

// mounts returns the system's mounts, then the pod's in order of depth, so that no mount hides one
// below it. A mount of the pod replaces a system or managed mount at the same path; a pod's mount
// on /dev replaces all of /dev.
func mounts(in Input, sc *corev1.SecurityContext) ([]specs.Mount, string, error) {
	own := map[string]bool{}
	for _, v := range ImageVolumes(in) {
		in.Mounts = append(in.Mounts[:len(in.Mounts):len(in.Mounts)], Mount{Source: v.Source, Destination: v.Destination})
	}
	for _, m := range in.Mounts {
		if !m.Managed {
			own[path.Clean(m.Destination)] = true
		}
	}
	replaced := func(dest string) bool {
		return own[dest] || own["/dev"] && strings.HasPrefix(dest, "/dev/")
	}
	list := slices.DeleteFunc(systemMounts(in.Node, sc), func(m specs.Mount) bool { return replaced(m.Destination) })
	binds := make([]specs.Mount, 0, len(in.Mounts))
	propagation := ""
	for _, m := range in.Mounts {
		m.Destination = path.Clean(m.Destination)
		if m.Managed && replaced(m.Destination) {
			continue
		}
		bind, err := bindMount(m, in.IDs)
		if err != nil {
			return nil, "", fmt.Errorf("building spec of container %q: %w", in.Container.Name, err)
		}
		propagation = wider(propagation, m.Propagation)
		binds = append(binds, bind)
	}
	slices.SortStableFunc(binds, func(a, b specs.Mount) int { return depth(a.Destination) - depth(b.Destination) })
	return append(list, binds...), propagation, nil
}

func depth(clean string) int { return strings.Count(clean, "/") }

// wider returns the propagation of the root mount that the most demanding bind mount needs.
func wider(have string, p corev1.MountPropagationMode) string {
	switch {
	case p == corev1.MountPropagationBidirectional:
		return "rshared"
	case p == corev1.MountPropagationHostToContainer && have == "":
		return "rslave"
	default:
		return have
	}
}

func bindMount(m Mount, ids IDMappings) (specs.Mount, error) {
	if !path.IsAbs(m.Source) || !path.IsAbs(m.Destination) {
		return specs.Mount{}, fmt.Errorf("mounting %q at %q: both must be absolute paths", m.Source, m.Destination)
	}
	options := []string{"rbind"}
	switch m.Propagation {
	case "", corev1.MountPropagationNone:
		options = append(options, "rprivate")
	case corev1.MountPropagationHostToContainer:
		options = append(options, "rslave")
	case corev1.MountPropagationBidirectional:
		options = append(options, "rshared")
	default:
		return specs.Mount{}, fmt.Errorf("invalid MountPropagation mode: %q", m.Propagation)
	}
	switch {
	case m.RecursiveReadOnly:
		options = append(options, "rro")
	case m.ReadOnly:
		options = append(options, "ro")
	default:
		options = append(options, "rw")
	}
	bind := specs.Mount{Destination: m.Destination, Type: "bind", Source: m.Source, Options: options}
	if len(ids.UIDs) > 0 && !m.Managed {
		bind.UIDMappings, bind.GIDMappings = ids.UIDs, ids.GIDs
	}
	return bind, nil
}
