package containerconfig_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// labels is a fake SELinux.
type labels struct {
	off   bool
	files []string // relabelled
}

func (l *labels) Enabled() bool { return !l.off }

func (l *labels) Of(o runtime.SELinuxOptions, pod runtime.SELinuxLabels) (runtime.SELinuxLabels, error) {
	return runtime.SELinuxLabels{Process: fmt.Sprintf("%s/%s in %s", o.Type, o.Level, pod.Process), Mount: "own"}, nil
}

func (l *labels) Relabel(path, label string) error {
	l.files = append(l.files, filepath.Base(path)+"="+label)
	return nil
}

// armor is a fake AppArmor.
type armor struct {
	asked []string
	err   error
}

func (a *armor) Ensure(_ context.Context, profile string) error {
	a.asked = append(a.asked, profile)
	return a.err
}

const labelled = `
metadata: {name: web-0, namespace: shop, uid: u1}
spec:
  volumes: [{name: scratch, emptyDir: {}}, {name: host, hostPath: {path: /srv}}]
  containers:
  - {name: pods, image: app, volumeMounts: [{name: scratch, mountPath: /data}]}
  - {name: own, image: app, securityContext: {seLinuxOptions: {type: spc_t, level: s0}}}
`

func TestSELinux(t *testing.T) {
	b := newBed(t)
	b.podLabels = runtime.SELinuxLabels{Process: "pod-process", Mount: "pod-files"}
	pod := podFrom(t, labelled)
	pod.Spec.Volumes = pod.Spec.Volumes[:1] // the bed mounts no hostPath
	c, err := b.start(t, pod, "pods", 0)
	must(t, err)
	if c.Spec.Process.SelinuxLabel != "pod-process" || c.Spec.Linux.MountLabel != "pod-files" {
		t.Errorf("labels %q and %q", c.Spec.Process.SelinuxLabel, c.Spec.Linux.MountLabel)
	}
	slices.Sort(b.labels.files)
	if want := []string{"0=pod-files", "etc-hostname=pod-files", "etc-hosts=pod-files", "etc-resolv.conf=pod-files", "scratch=pod-files", "u1=pod-files"}; !slices.Equal(b.labels.files, want) {
		t.Errorf("relabelled %q, want %q", b.labels.files, want)
	}
	if c, err = b.start(t, pod, "own", 0); err != nil || c.Spec.Process.SelinuxLabel != "spc_t/s0 in pod-process" || c.Spec.Linux.MountLabel != "own" {
		t.Errorf("own labels %q and %q, %v", c.Spec.Process.SelinuxLabel, c.Spec.Linux.MountLabel, err)
	}
	if _, err := b.Sandbox(t.Context(), pod, 0); err != nil || len(b.warned) > 0 {
		t.Errorf("warned of %q, %v", b.warned, err)
	}
	b.labels.off = true
	if _, err := b.Sandbox(t.Context(), pod, 0); err != nil || !slices.Equal(b.warned, []string{"SELinuxNotEnabled"}) {
		t.Errorf("a machine without SELinux: warned of %q, %v", b.warned, err)
	}
	pod = podFrom(t, strings.ReplaceAll(labelled, "pods, image", "plain, image"))
	pod.Spec.Containers, pod.Spec.SecurityContext = pod.Spec.Containers[:1], podFrom(t, "spec: {securityContext: {seLinuxOptions: {level: 's0:c1,c2'}}}").Spec.SecurityContext
	s, err := b.Sandbox(t.Context(), pod, 0)
	if err != nil || s.SELinux != (runtime.SELinuxOptions{Level: "s0:c1,c2"}) {
		t.Errorf("the sandbox is asked for %+v, %v", s.SELinux, err)
	}
}

func TestAppArmorProfileIsThereBeforeItIsNamed(t *testing.T) {
	b := newBed(t)
	b.node.Spec.AppArmor = "node-default"
	pod := podFrom(t, "metadata: {name: web-0, namespace: shop, uid: u1}\nspec: {containers: [{name: app}, {name: free, securityContext: {privileged: true}}]}\n")
	c, err := b.start(t, pod, "app", 0)
	must(t, err)
	if c.Spec.Process.ApparmorProfile != "node-default" || !slices.Equal(b.armor.asked, []string{"node-default"}) {
		t.Errorf("profile %q, asked for %q", c.Spec.Process.ApparmorProfile, b.armor.asked)
	}
	if _, err = b.start(t, pod, "free", 0); err != nil || len(b.armor.asked) != 1 {
		t.Errorf("a container without a profile: asked for %q, %v", b.armor.asked, err)
	}
	b.armor.err = fmt.Errorf("apparmor profile not found")
	if _, err = b.start(t, pod, "app", 1); err == nil || !strings.Contains(err.Error(), "apparmor profile not found") {
		t.Errorf("a profile that is not there: %v", err)
	}
}
