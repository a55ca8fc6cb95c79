package podsync

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/podsync/podplan"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// Claims prepares and releases the claims of one kind. The host is its journal: what it prepares it
// finds again after a restart of the agent, without the pod's spec. Every method is idempotent.
//
//	Prepare (again after a restart of the agent) ─► Held says true ─► Release ─► Held says false
type Claims interface {
	// Prepare makes one claim of the pod ready. The reason of its error, if it has one, is that of
	// the event that announces it.
	Prepare(ctx context.Context, t Task, name string) error
	// Held says whether the host holds anything of this kind for the pod.
	Held(ctx context.Context, pod runtime.PodRef) (bool, error)
	// Release gives back everything of this kind that the host holds for the pod.
	Release(ctx context.Context, pod runtime.PodRef) error
}

func checkClaims(claims map[podplan.Kind]Claims) error {
	for _, kind := range podplan.Kinds() {
		if claims[kind] == nil {
			return fmt.Errorf("claims of kind %q are required", kind)
		}
	}
	return nil
}

// held are the kinds of claims that the host holds for a pod.
func (x *Executor) held(ctx context.Context, pod runtime.PodRef) ([]podplan.Kind, error) {
	var held []podplan.Kind
	for _, kind := range podplan.Kinds() {
		holds, err := x.config.Claims[kind].Held(ctx, pod)
		if err != nil {
			return nil, fmt.Errorf("looking for claims of kind %q of pod %q: %w", kind, pod.UID, err)
		}
		if holds {
			held = append(held, kind)
		}
	}
	return held, nil
}

// VolumeClaims are the Claims of kind podplan.Volume.
type VolumeClaims struct{ Volumes Volumes }

// Prepare mounts one volume.
func (c VolumeClaims) Prepare(ctx context.Context, t Task, name string) error {
	err := c.Volumes.Mount(ctx, t.Want.Pod, name)
	if err == nil {
		return nil
	}
	if !strings.HasPrefix(err.Error(), "MountVolume.") {
		err = fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", name, err)
	}
	return &podspec.ReasonError{Reason: "FailedMount", Err: err}
}

// Held says whether anything is mounted for the pod.
func (c VolumeClaims) Held(ctx context.Context, pod runtime.PodRef) (bool, error) {
	return c.Volumes.Mounted(ctx, pod.UID)
}

// Release unmounts all that is mounted for the pod.
func (c VolumeClaims) Release(ctx context.Context, pod runtime.PodRef) error {
	return c.Volumes.Unmount(ctx, pod.UID)
}

// Volumes makes the volumes of pods ready.
type Volumes interface {
	// Mount makes one volume ready; mounting what is mounted refreshes it.
	Mount(ctx context.Context, pod *corev1.Pod, name string) error
	// Refreshable are the names of the pod's volumes whose contents may change.
	Refreshable(pod *corev1.Pod) []string
	// Mounted says whether anything is mounted for the pod: volumes, their subPaths, /dev/shm.
	Mounted(ctx context.Context, uid types.UID) (bool, error)
	// Unmount unmounts and removes all of that.
	Unmount(ctx context.Context, uid types.UID) error
}

// notMade is the error of a pod whose cgroup or folder could not be made, with kubelet's words and
// reason.
func notMade(err error) error {
	if err == nil {
		return nil
	}
	return &podspec.ReasonError{Reason: "FailedCreatePodContainer", Err: fmt.Errorf("unable to ensure pod container exists: %w", err)}
}

// CgroupClaims are the Claims of kind podplan.Cgroup.
type CgroupClaims struct{ Cgroups Cgroups }

// Cgroups makes the cgroups of pods.
type Cgroups interface {
	EnsurePod(ctx context.Context, pod *corev1.Pod) error
	// ResizePod changes the limits of the pod's cgroup to those of the pod: with widen only those
	// that grow.
	ResizePod(ctx context.Context, pod *corev1.Pod, widen bool) error
	RemovePod(ctx context.Context, uid types.UID) error
	// Pods are the UIDs of all pods that have a cgroup.
	Pods() ([]types.UID, error)
}

// Prepare makes the pod's cgroup.
func (c CgroupClaims) Prepare(ctx context.Context, t Task, _ string) error {
	if err := c.Cgroups.EnsurePod(ctx, t.Want.Pod); err != nil {
		return notMade(fmt.Errorf("making the pod's cgroup: %w", err))
	}
	return nil
}

// Held says whether the pod has a cgroup.
func (c CgroupClaims) Held(_ context.Context, pod runtime.PodRef) (bool, error) {
	uids, err := c.Cgroups.Pods()
	return slices.Contains(uids, pod.UID), err
}

// Release removes the pod's cgroup.
func (c CgroupClaims) Release(ctx context.Context, pod runtime.PodRef) error {
	return c.Cgroups.RemovePod(ctx, pod.UID)
}

// FolderClaims are the Claims of kind podplan.Folder.
type FolderClaims struct{ Folders Folders }

// Folders makes the folders of pods.
type Folders interface {
	// Prepare makes the pod's folder, log folder and /dev/shm.
	Prepare(ctx context.Context, pod *corev1.Pod) error
	// HasFolder says whether the pod has a folder or a log folder.
	HasFolder(uid types.UID) (bool, error)
	// Cleanup removes what Prepare made, and the pod's cgroup.
	Cleanup(ctx context.Context, pod runtime.PodRef) error
}

// Prepare makes the pod's folders.
func (c FolderClaims) Prepare(ctx context.Context, t Task, _ string) error {
	return notMade(c.Folders.Prepare(ctx, t.Want.Pod))
}

// Held says whether the pod has folders.
func (c FolderClaims) Held(_ context.Context, pod runtime.PodRef) (bool, error) {
	return c.Folders.HasFolder(pod.UID)
}

// Release removes the pod's folders, and its cgroup, which may be left when the agent did not end
// the pod itself.
func (c FolderClaims) Release(ctx context.Context, pod runtime.PodRef) error {
	return c.Folders.Cleanup(ctx, pod)
}
