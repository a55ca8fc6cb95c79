package podspec_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
)

func TestObjects(t *testing.T) {
	var pod corev1.Pod
	if err := yaml.UnmarshalStrict([]byte(`
metadata: {namespace: ns}
spec:
  imagePullSecrets: [{name: pull}, {name: ""}]
  volumes:
  - {name: a, configMap: {name: cm-volume}}
  - {name: b, secret: {secretName: secret-volume}}
  - {name: c, projected: {sources: [{configMap: {name: cm-projected}}, {secret: {name: secret-projected}}, {serviceAccountToken: {path: t}}]}}
  - {name: d, emptyDir: {}}
  initContainers: [{name: i, envFrom: [{configMapRef: {name: cm-from}}, {secretRef: {name: secret-from}}]}]
  containers:
  - name: m
    env:
    - {name: A, value: x}
    - {name: B, valueFrom: {configMapKeyRef: {name: cm-key, key: k}}}
    - {name: C, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
  ephemeralContainers: [{name: e, env: [{name: A, valueFrom: {secretKeyRef: {name: secret-key, key: k}}}]}]
`), &pod); err != nil {
		t.Fatal(err)
	}
	var got []string
	for k := range maps.Keys(podspec.Objects(&pod)) {
		got = append(got, k.Kind+" "+k.Name)
	}
	slices.Sort(got)
	want := "[configmap cm-from configmap cm-key configmap cm-projected configmap cm-volume " +
		"secret pull secret secret-from secret secret-key secret secret-projected secret secret-volume]"
	if fmt.Sprint(got) != want {
		t.Errorf("got  %v\nwant %s", got, want)
	}
}
