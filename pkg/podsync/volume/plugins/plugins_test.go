package plugins_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/volume/plugins"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/volumetest"
)

// Each kind of volume has exactly one plugin, under a name of its own.
func TestEachKindHasOnePlugin(t *testing.T) {
	list, err := plugins.New(&volumetest.Objects{})
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, p := range list {
		if names[p.Name()] {
			t.Errorf("two plugins have the name %q", p.Name())
		}
		names[p.Name()] = true
	}
	for kind, source := range map[string]corev1.VolumeSource{
		"configMap":   {ConfigMap: &corev1.ConfigMapVolumeSource{}},
		"secret":      {Secret: &corev1.SecretVolumeSource{}},
		"projected":   {Projected: &corev1.ProjectedVolumeSource{}},
		"emptyDir":    {EmptyDir: &corev1.EmptyDirVolumeSource{}},
		"hostPath":    {HostPath: &corev1.HostPathVolumeSource{}},
		"downwardAPI": {DownwardAPI: &corev1.DownwardAPIVolumeSource{}},
	} {
		handled := 0
		for _, p := range list {
			if p.Handles(&corev1.Volume{Name: "v", VolumeSource: source}) {
				handled++
			}
		}
		if handled != 1 {
			t.Errorf("%d plugins handle a %s", handled, kind)
		}
	}
	if _, err := plugins.New(nil); err == nil {
		t.Error("no error without objects")
	}
}
