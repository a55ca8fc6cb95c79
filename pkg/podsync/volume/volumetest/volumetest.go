// Package volumetest is a CONTRACT: the suite that every volume.Plugin passes, with API objects in
// memory and a mount namespace for tests.
package volumetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeagent/nodeagent/pkg/hostfs"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume"
)

// inside marks the process that runs in the mount namespace.
const inside = "VOLUMETEST_IN_MOUNT_NAMESPACE"

// Main is for TestMain. It runs the tests in their own mount namespace, so that their mounts are
// seen by nobody else and end with them. Without the permission for that, it says so and skips the
// tests.
func Main(m *testing.M) int {
	if os.Getenv(inside) != "" {
		return m.Run()
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...) //nolint:noctx // TestMain has no context
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	default:
		fmt.Fprintf(os.Stderr, "skipped: no mount namespace can be made here: %v\n", err)
		return 0
	}
}

// Case is one volume that the plugin under test makes.
type Case struct {
	Plugin volume.Plugin
	Pod    *corev1.Pod
	Volume *corev1.Volume
	// Change changes what the volume shows; nil for a plugin that does not refresh.
	Change func()
	// Foreign is a volume of another kind.
	Foreign *corev1.Volume
}

// Run checks the rules of volume.Plugin.
func Run(t *testing.T, c Case) {
	t.Helper()
	identity(t, c)
	target := filepath.Join(t.TempDir(), "pods", "uid", "volumes", "kind", c.Volume.Name)
	request := volume.Request{Pod: c.Pod, Volume: c.Volume, Target: target}
	pather, elsewhere := c.Plugin.(volume.Pather)
	if elsewhere {
		target = pather.Path(c.Volume)
	}
	if err := c.Plugin.Unmount(t.Context(), target); err != nil {
		t.Errorf("unmounting a volume that does not exist: %v", err)
	}
	if changed, err := c.Plugin.Mount(t.Context(), request); err != nil || (!changed && !elsewhere) {
		t.Fatalf("mounting: changed %v, error %v", changed, err)
	}
	if _, err := os.Stat(target); err != nil {
		t.Fatalf("after mounting: %v", err)
	}
	if changed, err := c.Plugin.Mount(t.Context(), request); err != nil || changed {
		t.Errorf("mounting again: changed %v, error %v", changed, err)
	}
	refresh(t, c, request)
	unmount(t, c, target, elsewhere)
}

// identity checks Name and Handles.
func identity(t *testing.T, c Case) {
	t.Helper()
	foreign := c.Foreign
	if foreign == nil {
		foreign = &corev1.Volume{Name: "x", VolumeSource: corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{}}}
	}
	if host, kind, ok := strings.Cut(c.Plugin.Name(), "/"); !ok || host == "" || kind == "" || strings.Contains(kind, "/") {
		t.Errorf("name %q is not of the form domain/kind", c.Plugin.Name())
	}
	if !c.Plugin.Handles(c.Volume) || c.Plugin.Handles(foreign) {
		t.Errorf("handles its own: %v, another's: %v", c.Plugin.Handles(c.Volume), c.Plugin.Handles(foreign))
	}
}

// unmount checks that Unmount leaves nothing behind, and that repeating it is no error.
func unmount(t *testing.T, c Case, target string, elsewhere bool) {
	t.Helper()
	for range 2 {
		if err := c.Plugin.Unmount(t.Context(), target); err != nil {
			t.Fatalf("unmounting: %v", err)
		}
	}
	if _, err := os.Lstat(target); err == nil && !elsewhere {
		t.Errorf("after unmounting, %q is still there", target)
	}
	if below, err := hostfs.MountsBelow(target); err != nil || len(below) > 0 {
		t.Errorf("after unmounting, there are still mounts %v (%v)", below, err)
	}
}

func refresh(t *testing.T, c Case, request volume.Request) {
	t.Helper()
	if r, ok := c.Plugin.(volume.Refresher); (ok && r.Refreshes()) != (c.Change != nil) {
		t.Fatalf("the plugin refreshes: %v, the case has a change: %v", ok, c.Change != nil)
	}
	if c.Change == nil {
		return
	}
	c.Change()
	for _, want := range []bool{true, false} {
		if changed, err := c.Plugin.Mount(t.Context(), request); err != nil || changed != want {
			t.Errorf("refreshing: changed %v, want %v, error %v", changed, want, err)
		}
	}
}

// Objects is a volume.Objects in memory. Its zero value is empty and ready.
type Objects struct {
	mu         sync.Mutex
	configMaps map[string]*corev1.ConfigMap
	secrets    map[string]*corev1.Secret
	services   []*corev1.Service
	unread     int // how many further reads of Services fail
	used       map[types.UID]bool
	tokens     int
}

// PutConfigMap adds or replaces a ConfigMap.
func (o *Objects) PutConfigMap(c *corev1.ConfigMap) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.configMaps == nil {
		o.configMaps = map[string]*corev1.ConfigMap{}
	}
	o.configMaps[c.Namespace+"/"+c.Name] = c
}

// PutSecret adds or replaces a Secret.
func (o *Objects) PutSecret(s *corev1.Secret) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.secrets == nil {
		o.secrets = map[string]*corev1.Secret{}
	}
	o.secrets[s.Namespace+"/"+s.Name] = s
}

// UnreadServices makes the next reads of Services fail, as before their first list.
func (o *Objects) UnreadServices(times int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.unread = times
}

// SetServices replaces all Services.
func (o *Objects) SetServices(s []*corev1.Service) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.services = s
}

// RenewTokens makes the next tokens differ from those before.
func (o *Objects) RenewTokens() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tokens++
}

// ConfigMap returns a ConfigMap that was put.
func (o *Objects) ConfigMap(_ context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if c := o.configMaps[namespace+"/"+name]; c != nil {
		return c, nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("configmap"), name)
}

// Secret returns a Secret that was put.
func (o *Objects) Secret(_ context.Context, namespace, name string) (*corev1.Secret, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if s := o.secrets[namespace+"/"+name]; s != nil {
		return s, nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("secret"), name)
}

// Token returns a text that names the arguments.
func (o *Objects) Token(_ context.Context, pod *corev1.Pod, audience string, seconds int64) (string, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return fmt.Sprintf("token %d of %s for %q, %d s", o.tokens, pod.UID, audience, seconds), nil
}

// Services returns those of the namespace, and default/kubernetes.
func (o *Objects) Services(namespace string) ([]*corev1.Service, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.unread > 0 {
		o.unread--
		return nil, errors.New("not read yet")
	}
	var list []*corev1.Service
	for _, s := range o.services {
		if s.Namespace == namespace || (s.Namespace == "default" && s.Name == "kubernetes") {
			list = append(list, s)
		}
	}
	return list, nil
}

// Use remembers the pod.
func (o *Objects) Use(pod *corev1.Pod) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.used == nil {
		o.used = map[types.UID]bool{}
	}
	o.used[pod.UID] = true
}

// Forget forgets the pod.
func (o *Objects) Forget(pod types.UID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.used, pod)
}

// Uses reports whether the pod was used and not forgotten.
func (o *Objects) Uses(pod types.UID) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.used[pod]
}
