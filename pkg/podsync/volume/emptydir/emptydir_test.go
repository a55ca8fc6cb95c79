package emptydir_test

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/nodeagent/nodeagent/pkg/podsync/volume"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/emptydir"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/volumetest"
)

func of(medium corev1.StorageMedium, limit string) *corev1.Volume {
	v := &corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: medium}}}
	if limit != "" {
		q := resource.MustParse(limit)
		v.EmptyDir.SizeLimit = &q
	}
	return v
}

func TestSuite(t *testing.T) {
	for _, medium := range []corev1.StorageMedium{corev1.StorageMediumDefault, corev1.StorageMediumMemory} {
		t.Run(string(medium), func(t *testing.T) {
			volumetest.Run(t, volumetest.Case{Plugin: emptydir.Plugin{}, Pod: &corev1.Pod{}, Volume: of(medium, "")})
		})
	}
}

// Everybody may write; with fsGroup, the folder and new files belong to the group; a second Mount
// keeps the pod's changes.
func TestModeAndGroup(t *testing.T) {
	group := int64(2000)
	for medium, mode := range map[corev1.StorageMedium]os.FileMode{
		corev1.StorageMediumDefault: os.ModeDir | os.ModeSetgid | 0o777,
		corev1.StorageMediumMemory:  os.ModeDir | os.ModeSetgid | os.ModeSticky | 0o777,
	} {
		r := volume.Request{Pod: &corev1.Pod{}, Volume: of(medium, ""), Target: filepath.Join(t.TempDir(), "v"), FSGroup: &group}
		mount(t, r)
		info, err := os.Stat(r.Target)
		if err != nil {
			t.Fatal(err)
		}
		if gid := info.Sys().(*syscall.Stat_t).Gid; info.Mode() != mode || gid != 2000 {
			t.Errorf("%q: mode %v, group %d", medium, info.Mode(), gid)
		}
		file := filepath.Join(r.Target, "f")
		if err := os.WriteFile(file, []byte("kept"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(r.Target, 0o700); err != nil {
			t.Fatal(err)
		}
		mount(t, r)
		info, err = os.Stat(r.Target)
		if data, readErr := os.ReadFile(file); err != nil || readErr != nil || string(data) != "kept" || info.Mode().Perm() != 0o700 {
			t.Errorf("%q: a second mount changed the pod's: %v %v %q %v", medium, err, readErr, data, info.Mode())
		}
	}
}

func TestMemorySize(t *testing.T) {
	limited := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "a", Resources: corev1.ResourceRequirements{
		Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("8Mi")},
	}}}}}
	for name, c := range map[string]struct {
		pod   *corev1.Pod
		limit string
		want  int64
	}{
		"sizeLimit":         {&corev1.Pod{}, "4Mi", 4 << 20},
		"pod's memory":      {limited, "", 8 << 20},
		"the lesser of two": {limited, "16Mi", 8 << 20},
		"the node's":        {&corev1.Pod{}, "", 64 << 20},
	} {
		r := volume.Request{
			Pod: c.pod, Volume: of(corev1.StorageMediumMemory, c.limit), Target: filepath.Join(t.TempDir(), "v"),
			Allocatable: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")},
		}
		mount(t, r)
		var s syscall.Statfs_t
		if err := syscall.Statfs(r.Target, &s); err != nil {
			t.Fatal(err)
		}
		if got := int64(s.Blocks) * s.Bsize; got != c.want {
			t.Errorf("%s: got %d bytes, want %d", name, got, c.want)
		}
	}
}

// A mount that the pod made in its folder and left there does not keep the folder from being
// removed, and what is behind the mount is not deleted.
func TestUnmountWithMountsOfThePod(t *testing.T) {
	dir := t.TempDir()
	r := volume.Request{Pod: &corev1.Pod{}, Volume: of("", ""), Target: filepath.Join(dir, "v")}
	mount(t, r)
	precious := filepath.Join(dir, "disk", "precious")
	for _, path := range []string{filepath.Dir(precious), filepath.Join(r.Target, "mnt")} {
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(precious, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount(filepath.Dir(precious), filepath.Join(r.Target, "mnt"), "", syscall.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	if err := (emptydir.Plugin{}).Unmount(t.Context(), r.Target); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(r.Target); err == nil {
		t.Error("the folder is still there")
	}
	if _, err := os.Lstat(precious); err != nil {
		t.Errorf("what was mounted in it: %v", err)
	}
}

func mount(t *testing.T, r volume.Request) {
	t.Helper()
	if _, err := (emptydir.Plugin{}).Mount(context.Background(), r); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = (emptydir.Plugin{}).Unmount(context.Background(), r.Target) })
}
