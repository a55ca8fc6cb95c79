package volumeset_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/volume"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/configmap"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/emptydir"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/hostpath"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/secret"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/volumeset"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/volumetest"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newSet(t *testing.T, root string, objects *volumetest.Objects, more ...volume.Plugin) *volumeset.Set {
	t.Helper()
	maps, err := configmap.New(objects)
	must(t, err)
	secrets, err := secret.New(objects)
	must(t, err)
	set, err := volumeset.New(volumeset.Config{
		Root: root, Use: objects.Use,
		Plugins: append([]volume.Plugin{emptydir.Plugin{}, hostpath.Plugin{}, maps, secrets}, more...),
	})
	must(t, err)
	return set
}

func pod(root string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u1"},
		Spec: corev1.PodSpec{Volumes: []corev1.Volume{
			{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			{Name: "memory", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}},
			{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: filepath.Join(root, "host")}}},
			{Name: "keys", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}},
			{Name: "claim", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}},
		}},
	}
}

// A pod's volumes from the first Mount to the last Unmount, which a second set does that does not
// know the pod, as after a restart.
func TestLife(t *testing.T) {
	root, ctx := t.TempDir(), context.Background()
	objects := &volumetest.Objects{}
	set, p := newSet(t, root, objects), pod(root)
	if err := set.Mount(ctx, p, "keys"); err == nil || err.Error() != `MountVolume.SetUp failed for volume "keys" : secret "s" not found` {
		t.Errorf("a missing secret: %v", err)
	}
	objects.PutSecret(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s"}, Data: map[string][]byte{"k": []byte("v")}})
	for _, name := range []string{"scratch", "memory", "host", "keys"} {
		must(t, set.Mount(ctx, p, name))
	}
	if err := set.Mount(ctx, p, "claim"); err == nil || !strings.Contains(err.Error(), `volume kind "persistentVolumeClaim" is not supported yet`) {
		t.Errorf("a claim: %v", err)
	}
	if err := set.Mount(ctx, p, "none"); err == nil {
		t.Error("a volume that is not there: no error")
	}
	if !objects.Uses("u1") {
		t.Error("the objects were not told of the pod")
	}
	path, err := set.Path(p, "keys")
	must(t, err)
	if want := filepath.Join(root, "pods/u1/volumes/kubernetes.io~secret/keys"); path != want {
		t.Errorf("path %q, want %q", path, want)
	}
	if !set.ReadOnly(p, "keys") || set.ReadOnly(p, "scratch") {
		t.Error("secrets are to be read-only, scratch folders are not")
	}
	if got := set.Refreshable(p); !slices.Equal(got, []string{"keys"}) {
		t.Errorf("refreshable: %v", got)
	}
	must(t, os.WriteFile(filepath.Join(root, "host", "precious"), nil, 0o600))

	restarted := newSet(t, root, objects)
	if left, err := restarted.Any("u1"); err != nil || !left {
		t.Errorf("left: %v, %v", left, err)
	}
	for range 2 {
		must(t, restarted.Unmount(ctx, "u1"))
	}
	if left, err := restarted.Any("u1"); err != nil || left {
		t.Errorf("left: %v, %v", left, err)
	}
	if _, err := os.Stat(filepath.Join(root, "pods/u1/volumes")); err == nil {
		t.Error("the volumes folder is still there")
	}
	if _, err := os.Stat(filepath.Join(root, "host", "precious")); err != nil {
		t.Errorf("the host's file: %v", err)
	}
}

// A volume of an unknown kind stays, with an error.
func TestUnmountOfAnUnknownKind(t *testing.T) {
	root := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(root, "pods/u2/volumes/example.com~disk/data"), 0o755))
	set := newSet(t, root, &volumetest.Objects{})
	if err := set.Unmount(context.Background(), "u2"); err == nil || !strings.Contains(err.Error(), "example.com~disk") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(filepath.Join(root, "pods/u2/volumes/example.com~disk/data")); err != nil {
		t.Errorf("it is gone: %v", err)
	}
}

// slow counts how many calls run at a time.
type slow struct {
	now, most atomic.Int32
}

func (*slow) Name() string                  { return "example.com/slow" }
func (*slow) Handles(v *corev1.Volume) bool { return v.NFS != nil }
func (s *slow) Mount(context.Context, volume.Request) (bool, error) {
	s.most.Store(max(s.most.Load(), s.now.Add(1)))
	defer s.now.Add(-1)
	for range 1000 {
		_ = os.Getpid()
	}
	return true, nil
}
func (s *slow) Unmount(context.Context, string) error { return nil }

func TestOneAtATimeForOneVolume(t *testing.T) {
	plugin := &slow{}
	set := newSet(t, t.TempDir(), &volumetest.Objects{}, plugin)
	p := pod("/")
	p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{}}}}
	var group sync.WaitGroup
	for range 50 {
		group.Go(func() {
			if err := set.Mount(context.Background(), p, "v"); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if plugin.most.Load() != 1 {
		t.Errorf("%d at a time", plugin.most.Load())
	}
}
