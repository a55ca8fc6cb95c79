package payload

import (
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
)

// Nest makes room for other volumes that the pod's containers mount below this one: it returns the
// folders, relative to the volume, that must be there for that, and drops the files in whose place
// one of them stands. What is mounted below such a folder is the other volume's affair. A subPath
// may be a file: one that is mounted on a file of this volume needs no folder.
func (f Files) Nest(pod *corev1.Pod, volume string) []string {
	var folders []string
	for _, c := range podspec.Containers(pod) {
		for i := range c.VolumeMounts {
			if m := &c.VolumeMounts[i]; m.Name == volume {
				folders = append(folders, f.nest(clean(m), c.VolumeMounts)...)
			}
		}
	}
	slices.Sort(folders)
	return slices.Compact(folders)
}

func clean(m *corev1.VolumeMount) string { return path.Join("/", m.MountPath) }

// nest goes over one container that has the volume at that place.
func (f Files) nest(at string, mounts []corev1.VolumeMount) []string {
	var folders []string
	for i := range mounts {
		m := &mounts[i]
		below, ok := strings.CutPrefix(clean(m), strings.TrimSuffix(at, "/")+"/")
		if !ok || below == "" || covered(clean(m), at, mounts) {
			continue
		}
		if _, file := f[below]; file && (m.SubPath != "" || m.SubPathExpr != "") {
			continue
		}
		for place := below; place != "."; place = path.Dir(place) {
			delete(f, place)
		}
		folders = append(folders, below)
	}
	return folders
}

// covered says whether another mount stands between the volume at that place and what is mounted
// below it.
func covered(mount, at string, mounts []corev1.VolumeMount) bool {
	return slices.ContainsFunc(mounts, func(m corev1.VolumeMount) bool {
		between := clean(&m)
		return between != at && strings.HasPrefix(between, strings.TrimSuffix(at, "/")+"/") && strings.HasPrefix(mount, between+"/")
	})
}
