package containerconfig_test

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestPropagationNeedsASharedMount(t *testing.T) {
	b := newBed(t)
	pod := podFrom(t, `
metadata: {name: web-0, namespace: shop, uid: u1}
spec:
  volumes: [{name: scratch, emptyDir: {}}]
  containers:
  - {name: both, image: app, volumeMounts: [{name: scratch, mountPath: /data, mountPropagation: Bidirectional}]}
  - {name: down, image: app, volumeMounts: [{name: scratch, mountPath: /data, mountPropagation: HostToContainer}]}
  - {name: none, image: app, volumeMounts: [{name: scratch, mountPath: /data, mountPropagation: None}]}
`)
	must(t, unix.Mount(b.root, b.root, "", unix.MS_BIND, ""))
	t.Cleanup(func() { must(t, unix.Unmount(b.root, unix.MNT_DETACH)) })
	for _, c := range []struct {
		flags uintptr
		kind  string
		want  map[string]string
	}{
		{unix.MS_PRIVATE, "private", map[string]string{"both": "is not a shared mount", "down": "is not a shared or slave mount", "none": ""}},
		{unix.MS_SHARED, "shared", map[string]string{"both": "", "down": "", "none": ""}},
	} {
		must(t, unix.Mount("", b.root, "", c.flags, ""))
		for name, want := range c.want {
			_, err := b.start(t, pod, name, 0)
			if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("%s on a %s mount: %v, want %q", name, c.kind, err, want)
			}
		}
	}
}
