package secret_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeagent/nodeagent/pkg/podsync/volume/secret"
	"github.com/nodeagent/nodeagent/pkg/podsync/volume/volumetest"
)

func TestSuite(t *testing.T) {
	objects := &volumetest.Objects{}
	put := func(data map[string][]byte) {
		objects.PutSecret(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s"}, Data: data})
	}
	put(map[string][]byte{"user": []byte("me"), "old": []byte("x")})
	plugin, err := secret.New(objects)
	if err != nil {
		t.Fatal(err)
	}
	volumetest.Run(t, volumetest.Case{
		Plugin: plugin,
		Pod:    &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u"}},
		Volume: &corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}},
		Change: func() { put(map[string][]byte{"user": []byte("me")}) },
	})
}
