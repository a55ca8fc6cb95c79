package downwardapi_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/volume/downwardapi"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/volumetest"
)

func TestSuite(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u", Labels: map[string]string{"a": "1"}}}
	volumetest.Run(t, volumetest.Case{
		Plugin: downwardapi.New(),
		Pod:    pod,
		Volume: &corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{
			Items: []corev1.DownwardAPIVolumeFile{{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}}},
		}}},
		Change: func() { pod.Labels["a"] = "2" },
	})
}
