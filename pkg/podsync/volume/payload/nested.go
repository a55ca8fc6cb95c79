package payload

import (
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Nest makes room for other volumes that the pod's containers mount below this one: it returns the
// folders, relative to the volume, that must be there for that, and drops the files in whose place
// one of them stands. What is mounted below such a folder is the other volume's affair. A subPath
// may be a file: one that is mounted on a file of this volume needs no folder.
func (f Files) Nest(pod *corev1.Pod, volume string) []string {
	var folders []string
	for _, mounts := range mountsOf(pod) {
		for i := range mounts {
			if mounts[i].Name == volume {
				folders = append(folders, f.nest(clean(&mounts[i]), mounts)...)
			}
		}
	}
	slices.Sort(folders)
	return slices.Compact(folders)
}

// mountsOf has the mounts of each container, of every sort.
func mountsOf(pod *corev1.Pod) [][]corev1.VolumeMount {
	var all [][]corev1.VolumeMount
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			all = append(all, list[i].VolumeMounts)
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		all = append(all, pod.Spec.EphemeralContainers[i].VolumeMounts)
	}
	return all
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
