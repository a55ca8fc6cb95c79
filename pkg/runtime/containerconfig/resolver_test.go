package containerconfig_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestResolverFileIsGoneForAMoment: a running pod keeps its resolver file for restarts of its
// containers, and follows once the node's file is back. A pod that never had one does not start
// without.
func TestResolverFileIsGoneForAMoment(t *testing.T) {
	b := newBed(t)
	resolv := filepath.Join(b.root, "resolv.conf")
	pod := podFrom(t, "metadata: {name: web-0, namespace: shop, uid: u1}\nspec:\n  dnsPolicy: Default\n  containers: [{name: app, image: app}]\n")
	shows := func(want string) {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(b.root, "pods/u1/etc-resolv.conf"))
		must(t, err)
		if !strings.Contains(string(text), want) {
			t.Errorf("the pod's resolver file is %q, want %s in it", text, want)
		}
	}
	_, err := b.start(t, pod, "app", 0)
	must(t, err)
	must(t, os.Remove(resolv))
	if _, err := b.start(t, pod, "app", 1); err != nil {
		t.Errorf("a restart while it is gone: %v", err)
	}
	shows("192.168.0.1")
	other := pod.DeepCopy()
	other.UID = "u2"
	if _, err := b.start(t, other, "app", 0); err == nil {
		t.Error("a pod was started without one")
	}
	must(t, os.WriteFile(resolv, []byte("nameserver 192.168.0.9\n"), 0o600))
	_, err = b.start(t, pod, "app", 2)
	must(t, err)
	shows("192.168.0.9")
}
