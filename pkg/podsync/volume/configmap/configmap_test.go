package configmap_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/volume/configmap"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/volumetest"
)

func TestSuite(t *testing.T) {
	objects := &volumetest.Objects{}
	put := func(value string) {
		objects.PutConfigMap(&corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "conf"},
			Data:       map[string]string{"a": value}, BinaryData: map[string][]byte{"b": {0, 1}},
		})
	}
	put("1")
	plugin, err := configmap.New(objects)
	if err != nil {
		t.Fatal(err)
	}
	volumetest.Run(t, volumetest.Case{
		Plugin: plugin,
		Pod:    &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u"}},
		Volume: &corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
			LocalObjectReference: corev1.LocalObjectReference{Name: "conf"},
		}}},
		Change: func() { put("2") },
	})
}
