package ocispec

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
)

// systemMounts are what every Linux program expects.
func systemMounts(sc *corev1.SecurityContext) []specs.Mount {
	access := "ro"
	if isTrue(sc.Privileged) {
		access = "rw"
	}
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{
			Destination: "/dev/pts", Type: "devpts", Source: "devpts",
			Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"},
		},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", access}},
		{
			Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup",
			Options: []string{"nosuid", "noexec", "nodev", "relatime", access},
		},
	}
}

// mounts are the system's, then the pod's in order of depth, so that a mount never hides one below it. What a pod mounts
// itself takes the place of a system or managed mount at the same path; a /dev of its own takes all of /dev.
func mounts(in Input, sc *corev1.SecurityContext) ([]specs.Mount, string, error) {
	own := map[string]bool{}
	for _, m := range in.Mounts {
		if !m.Managed {
			own[path.Clean(m.Destination)] = true
		}
	}
	replaced := func(dest string) bool {
		return own[dest] || own["/dev"] && strings.HasPrefix(dest, "/dev/")
	}
	list := slices.DeleteFunc(systemMounts(sc), func(m specs.Mount) bool { return replaced(m.Destination) })
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

// wider is the root mount's propagation that lets the widest of the binds work.
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
