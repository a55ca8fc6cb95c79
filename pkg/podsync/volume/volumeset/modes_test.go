package volumeset_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/volume"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/configmap"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/downwardapi"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/emptydir"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/projected"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/secret"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/volumeset"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/volumetest"
)

// TestModes compares every kind of volume with kubelet 1.36: "mode uid:gid" of the volume's folder
// and its contents, without and with fsGroup 2000. The policy OnRootMismatch changes nothing:
// kubelet's own kinds ignore it.
func TestModes(t *testing.T) {
	old := syscall.Umask(0o077) // systemd's is 0022; the umask must not matter
	defer syscall.Umask(old)
	m := func(mode int32) *int32 { return &mode }
	items := []corev1.KeyToPath{{Key: "a", Path: "a"}, {Key: "a", Path: "deep/own", Mode: m(0o600)}}
	down := []corev1.DownwardAPIVolumeFile{
		{Path: "a", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}},
		{Path: "deep/own", Mode: m(0o600), FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}},
	}
	token := []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}}}
	// The contents of all volumes that show two files with default modes.
	const files, ofGroup = "a 0644 0:0, deep 0755 0:0, deep/own 0600 0:0", "a 0644 0:2000, deep 2755 0:2000, deep/own 0640 0:2000"
	const closed, closedOfGroup = "a 0400 0:0, deep 0755 0:0, deep/own 0600 0:0", "a 0440 0:2000, deep 2755 0:2000, deep/own 0640 0:2000"
	for name, c := range map[string]struct {
		source              corev1.VolumeSource
		user                *int64
		folder, folderGroup string
		files, filesGroup   string
	}{
		"emptyDir": {
			source: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}},
			folder: "0777 0:0", folderGroup: "2777 0:2000",
		},
		"emptyDir in memory": {
			source: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}},
			folder: "1777 0:0", folderGroup: "3777 0:2000",
		},
		"emptyDir in huge pages": {
			source: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: "HugePages-2Mi"}},
			folder: "0755 0:0", folderGroup: "2775 0:2000",
		},
		"configMap": {
			source: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "o"}, Items: items}},
			folder: "0777 0:0", folderGroup: "2777 0:2000", files: files, filesGroup: ofGroup,
		},
		"configMap 0400": {
			source: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
				LocalObjectReference: corev1.LocalObjectReference{Name: "o"}, Items: items, DefaultMode: m(0o400),
			}},
			folder: "0777 0:0", folderGroup: "2777 0:2000", files: closed, filesGroup: closedOfGroup,
		},
		"secret": {
			source: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "o", Items: items}},
			folder: "1777 0:0", folderGroup: "3777 0:2000", files: files, filesGroup: ofGroup,
		},
		"secret 0400": {
			source: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "o", Items: items, DefaultMode: m(0o400)}},
			folder: "1777 0:0", folderGroup: "3777 0:2000", files: closed, filesGroup: closedOfGroup,
		},
		"downwardAPI": {
			source: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: down}},
			folder: "1777 0:0", folderGroup: "3777 0:2000", files: files, filesGroup: ofGroup,
		},
		"downwardAPI 0400": {
			source: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: down, DefaultMode: m(0o400)}},
			folder: "1777 0:0", folderGroup: "3777 0:2000", files: closed, filesGroup: closedOfGroup,
		},
		"projected": {
			source: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{
				Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "o"}, Items: items},
			}}}},
			folder: "1777 0:0", folderGroup: "3777 0:2000", files: files, filesGroup: ofGroup,
		},
		"projected 0400": {
			source: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{DefaultMode: m(0o400), Sources: []corev1.VolumeProjection{{
				ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "o"}, Items: items},
			}}}},
			folder: "1777 0:0", folderGroup: "3777 0:2000", files: closed, filesGroup: closedOfGroup,
		},
		"token": {
			source: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: token}},
			folder: "1777 0:0", folderGroup: "3777 0:2000", files: "token 0644 0:0", filesGroup: "token 0640 0:2000",
		},
		"token of one user": {
			source: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: token}}, user: ptr(1000),
			folder: "1777 0:0", folderGroup: "3777 0:2000", files: "token 0600 1000:0", filesGroup: "token 0640 1000:2000",
		},
	} {
		t.Run(name, func(t *testing.T) {
			folder, inside := shown(t, c.source, c.user, nil)
			if folder != c.folder || inside != c.files {
				t.Errorf("without fsGroup:\n got %s: %s\nwant %s: %s", folder, inside, c.folder, c.files)
			}
			folder, inside = shown(t, c.source, c.user, ptr(2000))
			if folder != c.folderGroup || inside != c.filesGroup {
				t.Errorf("with fsGroup:\n got %s: %s\nwant %s: %s", folder, inside, c.folderGroup, c.filesGroup)
			}
		})
	}
}

func ptr(n int64) *int64 { return &n }

// shown mounts a volume and describes what a container sees.
func shown(t *testing.T, source corev1.VolumeSource, user, group *int64) (folder, inside string) {
	t.Helper()
	set, pod := withAll(t)
	onRootMismatch := corev1.FSGroupChangeOnRootMismatch
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: user, FSGroup: group, FSGroupChangePolicy: &onRootMismatch}
	pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: source}}
	if err := set.Mount(t.Context(), pod, "v"); err != nil {
		t.Fatal(err)
	}
	path, err := set.Path(pod, "v")
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, name := range []string{"a", "deep", "deep/own", "token"} {
		if info, err := os.Stat(filepath.Join(path, name)); err == nil {
			lines = append(lines, name+" "+looks(info))
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return looks(info), strings.Join(lines, ", ")
}

func looks(info os.FileInfo) string {
	s := info.Sys().(*syscall.Stat_t)
	return fmt.Sprintf("%04o %d:%d", s.Mode&0o7777, s.Uid, s.Gid)
}

func withAll(t *testing.T) (*volumeset.Set, *corev1.Pod) {
	t.Helper()
	objects := &volumetest.Objects{}
	meta := metav1.ObjectMeta{Namespace: "default", Name: "o"}
	objects.PutConfigMap(&corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"a": "1", "b": "2"}})
	objects.PutSecret(&corev1.Secret{ObjectMeta: meta, Data: map[string][]byte{"a": []byte("1"), "b": []byte("2")}})
	configMaps, err1 := configmap.New(objects)
	secrets, err2 := secret.New(objects)
	sources, err3 := projected.New(objects)
	set, err4 := volumeset.New(volumeset.Config{Root: t.TempDir(), Plugins: []volume.Plugin{
		configMaps, secrets, sources, emptydir.Plugin{}, downwardapi.New(),
	}})
	for _, err := range []error{err1, err2, err3, err4} {
		if err != nil {
			t.Fatal(err)
		}
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", UID: "uid"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}},
	}
	t.Cleanup(func() {
		if err := set.Unmount(t.Context(), pod.UID); err != nil {
			t.Error(err)
		}
	})
	return set, pod
}

// Other volumes may be mounted below a read-only volume: it has the mount points, beside files and
// in place of a file, and keeps them when the contents change.
func TestNestedMounts(t *testing.T) {
	for kind, source := range map[string]corev1.VolumeSource{
		"configMap": {ConfigMap: &corev1.ConfigMapVolumeSource{
			LocalObjectReference: corev1.LocalObjectReference{Name: "o"},
			Items:                []corev1.KeyToPath{{Key: "a", Path: "a"}, {Key: "b", Path: "conf/b"}, {Key: "b", Path: "hidden"}},
		}},
		"secret": {Secret: &corev1.SecretVolumeSource{
			SecretName: "o", Items: []corev1.KeyToPath{{Key: "a", Path: "a"}, {Key: "b", Path: "conf/b"}, {Key: "b", Path: "hidden"}},
		}},
		"projected": {Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{ConfigMap: &corev1.ConfigMapProjection{
			LocalObjectReference: corev1.LocalObjectReference{Name: "o"},
			Items:                []corev1.KeyToPath{{Key: "a", Path: "a"}, {Key: "b", Path: "conf/b"}, {Key: "b", Path: "hidden"}},
		}}}}},
		"downwardAPI": {DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{
			{Path: "a", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}},
			{Path: "conf/b", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}},
			{Path: "hidden", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}},
		}}},
	} {
		set, pod := withAll(t)
		pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: source}}
		pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{
			{Name: "v", MountPath: "/etc/app/"},
			{Name: "x", MountPath: "/etc/app/data"},
			{Name: "x", MountPath: "/etc/app/data/below"}, // in the other volume
			{Name: "x", MountPath: "/etc/app/data-2"},
			{Name: "x", MountPath: "/etc/app/conf/extra/deep"},
			{Name: "x", MountPath: "/etc/app/hidden"},
			{Name: "x", MountPath: "/etc/app/a", SubPath: "file"}, // a file on a file
			{Name: "x", MountPath: "/etc/application"},
		}
		for range 2 {
			if err := set.Mount(t.Context(), pod, "v"); err != nil {
				t.Fatalf("%s: %v", kind, err)
			}
		}
		path, err := set.Path(pod, "v")
		if err != nil {
			t.Fatal(err)
		}
		for name, folder := range map[string]bool{
			"data": true, "data-2": true, "conf/extra/deep": true, "hidden": true, "a": false, "conf/b": false,
		} {
			info, err := os.Stat(filepath.Join(path, name))
			if err != nil || info.IsDir() != folder {
				t.Errorf("%s: %q: %v", kind, name, err)
			} else if folder && info.Mode().Perm() != 0o755 {
				t.Errorf("%s: %q has mode %v", kind, name, info.Mode())
			}
		}
		if _, err := os.Stat(filepath.Join(path, "data/below")); err == nil {
			t.Errorf("%s: a folder was made in another volume's place", kind)
		}
	}
}
