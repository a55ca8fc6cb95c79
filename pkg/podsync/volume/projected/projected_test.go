package projected_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/volume"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/projected"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/volumetest"
)

func account() *corev1.Volume {
	return &corev1.Volume{Name: "kube-api-access", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}},
			{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"},
				Items:                []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
			}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{
				{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.namespace"}},
			}}},
		},
	}}}
}

func pod() *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u"}}
}

func newPlugin(t *testing.T) (volume.Plugin, *volumetest.Objects) {
	t.Helper()
	objects := &volumetest.Objects{}
	objects.PutConfigMap(&corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "kube-root-ca.crt"},
		Data:       map[string]string{"ca.crt": "CA", "other": "not shown"},
	})
	plugin, err := projected.New(objects)
	if err != nil {
		t.Fatal(err)
	}
	return plugin, objects
}

func TestSuite(t *testing.T) {
	plugin, objects := newPlugin(t)
	volumetest.Run(t, volumetest.Case{Plugin: plugin, Pod: pod(), Volume: account(), Change: objects.RenewTokens})
}

// Only its user may read a token, if that user is known.
func TestTokenMode(t *testing.T) {
	id := func(v int64) *int64 { return &v }
	for name, c := range map[string]struct {
		user, group *int64
		mode        fs.FileMode
		uid, gid    uint32
	}{
		"nobody in particular": {mode: 0o644},
		"one user":             {user: id(1000), mode: 0o600, uid: 1000},
		"fsGroup":              {group: id(2000), mode: 0o640, gid: 2000},
		"both":                 {user: id(1000), group: id(2000), mode: 0o640, uid: 1000, gid: 2000},
	} {
		t.Run(name, func(t *testing.T) {
			plugin, _ := newPlugin(t)
			p := pod()
			p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: c.user}
			p.Spec.Containers = []corev1.Container{{Name: "a"}}
			target := filepath.Join(t.TempDir(), "v")
			if _, err := plugin.Mount(context.Background(), volume.Request{Pod: p, Volume: account(), Target: target, FSGroup: c.group}); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = plugin.Unmount(context.Background(), target) })
			info, err := os.Stat(filepath.Join(target, "token"))
			if err != nil {
				t.Fatal(err)
			}
			if s := info.Sys().(*syscall.Stat_t); info.Mode().Perm() != c.mode || s.Uid != c.uid || s.Gid != c.gid {
				t.Errorf("got mode %v of %d:%d, want %v of %d:%d", info.Mode().Perm(), s.Uid, s.Gid, c.mode, c.uid, c.gid)
			}
		})
	}
}

func TestAllThatIsMissingIsNamed(t *testing.T) {
	plugin, _ := newPlugin(t)
	v := account()
	v.Projected.Sources = append(v.Projected.Sources,
		corev1.VolumeProjection{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "gone"}}},
		corev1.VolumeProjection{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "gone-too"}}})
	target := filepath.Join(t.TempDir(), "v")
	_, err := plugin.Mount(context.Background(), volume.Request{Pod: pod(), Volume: v, Target: target})
	if err == nil || !strings.Contains(err.Error(), `secret "gone" not found`) || !strings.Contains(err.Error(), `configmap "gone-too" not found`) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(target); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("half a volume is there: %v", err)
	}
}
