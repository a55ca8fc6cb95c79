package containerconfig

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/hostfs"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// Prepare creates the pod's folder, log folder and /dev/shm. Those that exist stay as they are.
func (b *Builder) Prepare(_ context.Context, pod *corev1.Pod) error {
	b.config.Objects.Use(pod)
	if err := os.MkdirAll(b.podDir(pod.UID), 0o750); err != nil {
		return fmt.Errorf("making the pod's folder: %w", err)
	}
	if err := os.MkdirAll(b.logDir(runtime.RefOf(pod)), 0o755); err != nil {
		return fmt.Errorf("making the pod's log folder: %w", err)
	}
	if err := b.ensureShm(pod); err != nil {
		return fmt.Errorf("making the pod's /dev/shm: %w", err)
	}
	return nil
}

func (b *Builder) logDir(pod runtime.PodRef) string { return LogDir(b.config.PodLogs, pod) }

// LogDir is the folder that holds the log folders of a pod's containers.
func LogDir(podLogs string, pod runtime.PodRef) string {
	return filepath.Join(podLogs, pod.Namespace+"_"+pod.Name+"_"+string(pod.UID))
}

// logDirs lists the log folders of a UID under any pod name.
func (b *Builder) logDirs(uid types.UID) ([]string, error) {
	entries, err := list(b.config.PodLogs)
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, name := range entries {
		if uidOfLogs(name) == uid {
			dirs = append(dirs, filepath.Join(b.config.PodLogs, name))
		}
	}
	return dirs, nil
}

func uidOfLogs(name string) types.UID {
	parts := strings.Split(name, "_")
	if len(parts) != 3 {
		return ""
	}
	return types.UID(parts[2])
}

// Mounted says whether anything is mounted for the pod: volumes, subPaths, /dev/shm.
func (b *Builder) Mounted(uid types.UID) (bool, error) {
	volumes, err := b.config.Volumes.Any(uid)
	return volumes || exists(b.shmDir(uid)) || exists(b.subPaths(uid)), err
}

// HasFolder says whether the pod has a folder or a log folder.
func (b *Builder) HasFolder(uid types.UID) (bool, error) {
	logs, err := b.logDirs(uid)
	return len(logs) > 0 || exists(b.podDir(uid)), err
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// Release unmounts /dev/shm and the subPaths of the pod's containers, which would keep removed
// volumes alive. Call it when no container runs any more, before the volumes are unmounted.
func (b *Builder) Release(uid types.UID) error {
	return errors.Join(removeMounted(b.shmDir(uid)), removeMounted(b.subPaths(uid)))
}

// Cleanup removes the pod's cgroup, /dev/shm, folder and logs. The pod's volumes must be gone.
func (b *Builder) Cleanup(ctx context.Context, pod runtime.PodRef) error {
	left, err := b.config.Volumes.Any(pod.UID)
	if err != nil {
		return err
	}
	if left {
		return fmt.Errorf("cleaning up after pod %q: its volumes are still there", pod.UID)
	}
	var all error
	all = errors.Join(all, b.config.Cgroups.RemovePod(ctx, pod.UID))
	all = errors.Join(all, removeMounted(b.shmDir(pod.UID)))
	all = errors.Join(all, removeMounted(b.podDir(pod.UID)))
	logs, err := b.logDirs(pod.UID)
	all = errors.Join(all, err)
	for _, dir := range logs {
		all = errors.Join(all, hostfs.Remove(dir))
	}
	b.config.Objects.Forget(pod.UID)
	return all
}

// removeMounted unmounts the agent's mounts (subPaths, tmpfs) below the folder, then removes the
// folder.
func removeMounted(dir string) error {
	if !exists(dir) {
		return nil
	}
	if err := hostfs.UnmountBelow(dir); err != nil {
		return err
	}
	return hostfs.Remove(dir)
}

// Leftovers are the UIDs of all pods of which the host has a folder, logs, a /dev/shm or a cgroup,
// sorted.
func (b *Builder) Leftovers(context.Context) ([]types.UID, error) {
	found, err := b.config.Cgroups.Pods()
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{filepath.Join(b.config.Root, "pods"), filepath.Join(b.config.Run, "shm")} {
		names, err := list(dir)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			found = append(found, types.UID(name))
		}
	}
	logs, err := list(b.config.PodLogs)
	if err != nil {
		return nil, err
	}
	for _, name := range logs {
		if uid := uidOfLogs(name); uid != "" {
			found = append(found, uid)
		}
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}

func list(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing what is left of pods: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}
