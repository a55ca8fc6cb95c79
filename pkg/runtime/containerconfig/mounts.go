package containerconfig

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/hostfs"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime/ocispec"
)

// mounts returns the container's volumes, then the files that the node manages for the pod.
func (w work) mounts(env []string) ([]ocispec.Mount, error) {
	list := make([]ocispec.Mount, 0, len(w.container.VolumeMounts)+5)
	for i := range w.container.VolumeMounts {
		m, err := w.volumeMount(i, env)
		if err != nil {
			return nil, err
		}
		list = append(list, m)
	}
	managed, err := w.managedMounts()
	if err != nil {
		return nil, err
	}
	return append(list, managed...), nil
}

func (w work) volumeMount(i int, env []string) (ocispec.Mount, error) {
	m := &w.container.VolumeMounts[i]
	source, err := w.config.Volumes.Path(w.pod, m.Name)
	if err != nil {
		return ocispec.Mount{}, fmt.Errorf("cannot find volume %q to mount into container %q: %w", m.Name, w.container.Name, err)
	}
	sub, err := ocispec.SubPath(m, env)
	if err != nil {
		return ocispec.Mount{}, err
	}
	if sub != "" {
		if source, err = w.bindSubPath(source, sub, i); err != nil {
			return ocispec.Mount{}, err
		}
	}
	recursive, err := ocispec.RecursiveReadOnly(m, w.node.RecursiveReadOnly)
	if err != nil {
		return ocispec.Mount{}, fmt.Errorf("failed to resolve recursive read-only mode: %w", err)
	}
	mount := ocispec.Mount{
		Source:            source,
		Destination:       path.Join("/", m.MountPath),
		ReadOnly:          m.ReadOnly || w.config.Volumes.ReadOnly(w.pod, m.Name),
		RecursiveReadOnly: recursive,
	}
	if m.MountPropagation != nil {
		mount.Propagation = *m.MountPropagation
	}
	return mount, w.config.Propagates(source, mount.Propagation)
}

// checkPropagation refuses propagation that cannot work: the kernel accepts it silently, but mounts
// propagate only to and from a shared mount, or to a slave.
func checkPropagation(source string, mode corev1.MountPropagationMode) error {
	if mode == "" || mode == corev1.MountPropagationNone {
		return nil
	}
	path, err := filepath.EvalSymlinks(source)
	if err != nil {
		return fmt.Errorf("finding the mount of a volume: %w", err)
	}
	above, err := mountinfo.GetMounts(mountinfo.ParentsFilter(path))
	if err != nil {
		return fmt.Errorf("finding the mount of %q: %w", path, err)
	}
	var found *mountinfo.Info
	for _, m := range above { // the last mount at the deepest path hides the others
		if found == nil || len(m.Mountpoint) >= len(found.Mountpoint) {
			found = m
		}
	}
	switch {
	case found == nil:
		return fmt.Errorf("path %q is not below any mount", path)
	case strings.Contains(found.Optional, "shared:"):
		return nil
	case mode == corev1.MountPropagationBidirectional:
		return fmt.Errorf("path %q is mounted on %q but it is not a shared mount", path, found.Mountpoint)
	case strings.Contains(found.Optional, "master:"):
		return nil
	default:
		return fmt.Errorf("path %q is mounted on %q but it is not a shared or slave mount", path, found.Mountpoint)
	}
}

// bindSubPath bind-mounts the subPath into the pod's folder, so that nobody in the pod can redirect
// it between the check and the container's start. Its errors do not reveal the host's files.
func (w work) bindSubPath(volume, sub string, index int) (string, error) {
	m := w.container.VolumeMounts[index]
	target := filepath.Join(w.subPaths(w.pod.UID), m.Name, w.container.Name, strconv.Itoa(index))
	if err := w.config.Bind(volume, sub, target); err != nil {
		w.config.Log.Warn("SubPath of a volume cannot be mounted", "pod", podspec.Key(w.pod), "uid", w.pod.UID,
			"container", w.container.Name, "volume", m.Name, "err", err)
		return "", fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q", m.Name, w.container.Name)
	}
	return target, nil
}

// managedMounts returns /etc/hosts, /etc/hostname, /etc/resolv.conf, /dev/shm and the termination
// message file.
func (w work) managedMounts() ([]ocispec.Mount, error) {
	files, err := w.writePodFiles(w.pod, w.podIPs())
	if err != nil {
		return nil, err
	}
	readOnly := w.container.SecurityContext != nil && w.container.SecurityContext.ReadOnlyRootFilesystem != nil &&
		*w.container.SecurityContext.ReadOnlyRootFilesystem
	list := []ocispec.Mount{
		{Source: files.hostname, Destination: "/etc/hostname", ReadOnly: readOnly, Managed: true},
		{Source: files.resolv, Destination: "/etc/resolv.conf", ReadOnly: readOnly, Managed: true},
		{Source: w.shm(w.pod), Destination: "/dev/shm", Managed: true},
	}
	if files.hosts != "" {
		list = append(list, ocispec.Mount{Source: files.hosts, Destination: "/etc/hosts", Managed: true})
	}
	if err := w.makeMessageFile(); err != nil {
		return nil, err
	}
	return append(list, ocispec.Mount{Source: w.messagePath(), Destination: w.messageTarget(), Managed: true}), nil
}

// messageTarget is the path of the termination message file in the container; pods from files lack
// the default.
func (w work) messageTarget() string {
	if w.container.TerminationMessagePath == "" {
		return corev1.TerminationMessagePathDefault
	}
	return path.Join("/", w.container.TerminationMessagePath)
}

// messagePath is the host path of this attempt's termination message file.
func (w work) messagePath() string {
	return filepath.Join(w.podDir(w.pod.UID), messagesDir, w.container.Name, strconv.Itoa(w.request.Attempt))
}

// makeMessageFile creates the termination message file, writable for any user, and removes those of
// forgotten attempts, which may be large.
func (w work) makeMessageFile() error {
	path := w.messagePath()
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return fmt.Errorf("making the folder of the termination message's file: %w", err)
	}
	if err := w.sweepMessages(filepath.Dir(path)); err != nil {
		return err
	}
	if err := hostfs.Touch(path, 0o666); err != nil {
		return fmt.Errorf("making the termination message's file: %w", err)
	}
	return nil
}

func (w work) sweepMessages(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("listing termination messages: %w", err)
	}
	known := map[string]bool{strconv.Itoa(w.request.Attempt): true}
	for i := range w.request.Runtime.Containers {
		if c := &w.request.Runtime.Containers[i]; c.Name == w.container.Name {
			known[strconv.Itoa(c.Attempt)] = true
		}
	}
	for _, e := range entries {
		if known[e.Name()] {
			continue
		}
		if err := hostfs.Remove(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("removing an old termination message: %w", err)
		}
	}
	return nil
}
