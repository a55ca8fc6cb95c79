package containerconfig_test

import (
	"strconv"
	"testing"

	"k8s.io/apimachinery/pkg/types"
)

// The agent's own work before a pod's first container starts, without runtime, cgroups and network.
func BenchmarkStart(b *testing.B) {
	bed := newBed(b)
	pod := podFrom(b, `
metadata: {name: web-0, namespace: shop, uid: u1}
spec:
  volumes: [{name: scratch, emptyDir: {}}]
  containers: [{name: app, image: app, volumeMounts: [{name: scratch, mountPath: /data}], securityContext: {seccompProfile: {type: RuntimeDefault}}}]
`)
	for i := range b.N {
		pod.UID = types.UID("u" + strconv.Itoa(i))
		if _, err := bed.start(b, pod, "app", 0); err != nil {
			b.Fatal(err)
		}
	}
}
