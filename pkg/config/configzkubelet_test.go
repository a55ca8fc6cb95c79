package config

import (
	"encoding/json"
	"reflect"
	"testing"
)

// TestConfigzGivesTheSameKubelet: the document of the node API's /configz, read as a file, gives
// the same configuration.
func TestConfigzGivesTheSameKubelet(t *testing.T) {
	for _, text := range []string{"", `
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
maxPods: 42
staticPodPath: /etc/kubernetes/manifests
serializeImagePulls: true
containerLogMaxSize: 1Mi
evictionHard: {memory.available: 1Gi}
systemReserved: {cpu: 100m, memory: 1Gi}
cgroupDriver: systemd
healthzPort: 0
registerWithTaints: [{key: a, value: b, effect: NoSchedule}]
authorization: {mode: AlwaysAllow}
authentication: {anonymous: {enabled: true}, webhook: {enabled: false, cacheTTL: 7s}}
oomScoreAdj: -5
podPidsLimit: 100
tlsMinVersion: VersionTLS13
`} {
		c := resolved(t, []byte("apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"+text))
		shown, err := json.Marshal(c.KubeletConfiguration())
		if err != nil {
			t.Fatal(err)
		}
		again := resolved(t, shown)
		a, b := reflect.ValueOf(c), reflect.ValueOf(again)
		for i := range a.NumField() {
			x, _ := json.Marshal(a.Field(i).Interface())
			y, _ := json.Marshal(b.Field(i).Interface())
			if string(x) != string(y) {
				t.Errorf("%s: %s\nis %s after %s", a.Type().Field(i).Name, x, y, shown)
			}
		}
	}
}
