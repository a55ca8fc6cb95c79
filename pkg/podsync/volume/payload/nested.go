package payload

import (
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/hostfs/filetree"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
)

// Nest makes room for other volumes that the pod's containers mount below this one. It returns the
// mount points, relative to the volume, and drops from files those that stand in their place. It
// leaves out what is mounted below such a mount point, which is inside the other volume. A subPath
// may be a file: mounted on a file of this volume, it needs no folder.
func Nest(files filetree.Files, pod *corev1.Pod, volume string) []string {
	var folders []string
	for _, c := range podspec.Containers(pod) {
		for i := range c.VolumeMounts {
			if m := &c.VolumeMounts[i]; m.Name == volume {
				folders = append(folders, nest(files, clean(m), c.VolumeMounts)...)
			}
		}
	}
	slices.Sort(folders)
	return slices.Compact(folders)
}

func clean(m *corev1.VolumeMount) string { return path.Join("/", m.MountPath) }

// nest finds the mount points in one container, which has the volume at the path at.
func nest(files filetree.Files, at string, mounts []corev1.VolumeMount) []string {
	var folders []string
	for i := range mounts {
		m := &mounts[i]
		below, ok := strings.CutPrefix(clean(m), strings.TrimSuffix(at, "/")+"/")
		if !ok || below == "" || covered(clean(m), at, mounts) {
			continue
		}
		if _, file := files[below]; file && (m.SubPath != "" || m.SubPathExpr != "") {
			continue
		}
		for place := below; place != "."; place = path.Dir(place) {
			delete(files, place)
		}
		folders = append(folders, below)
	}
	return folders
}

// covered reports whether another mount lies between the volume at the path at and a mount below
// it.
func covered(mount, at string, mounts []corev1.VolumeMount) bool {
	return slices.ContainsFunc(mounts, func(m corev1.VolumeMount) bool {
		between := clean(&m)
		return between != at && strings.HasPrefix(between, strings.TrimSuffix(at, "/")+"/") && strings.HasPrefix(mount, between+"/")
	})
}
