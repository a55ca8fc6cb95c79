package pressure_test

import (
	"reflect"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/nodeagent/nodeagent/pkg/node/pressure"
	"github.com/nodeagent/nodeagent/pkg/podsync/podspec"
)

const mi = 1 << 20

func podOf(t *testing.T, spec string) *corev1.Pod {
	t.Helper()
	pod := &corev1.Pod{}
	if err := yaml.UnmarshalStrict([]byte(spec), &pod.Spec); err != nil {
		t.Fatal(err)
	}
	return pod
}

func TestCheck(t *testing.T) {
	type bytes = map[string]int64
	const one = `containers: [{name: a, resources: {limits: {ephemeral-storage: 5Mi}}}]`
	const two = `containers: [{name: a, resources: {limits: {ephemeral-storage: 5Mi}}}, {name: b, resources: {limits: {ephemeral-storage: 7Mi}}}]`
	const more = `{containers: [{name: a, resources: {limits: {ephemeral-storage: 5Mi}}}, {name: b, resources: {limits: {ephemeral-storage: 7Mi}}}], volumes: [{name: v, configMap: {name: c}}]}`
	const scratch = `{containers: [{name: a}], volumes: [{name: v, emptyDir: {sizeLimit: 3Mi}}, {name: m, emptyDir: {medium: Memory, sizeLimit: 1Mi}}]}`
	for name, c := range map[string]struct {
		spec           string
		used           pressure.Usage
		limit, message string
	}{
		"nothing used":        {spec: one},
		"at the limit":        {spec: one, used: pressure.Usage{Containers: bytes{"a": 5 * mi}}},
		"beyond it":           {one, pressure.Usage{Containers: bytes{"a": 5*mi + 1}}, pressure.Pod, "Pod ephemeral local storage usage exceeds the total limit of containers 5Mi. "},
		"one of two beyond":   {two, pressure.Usage{Containers: bytes{"a": 6 * mi}}, pressure.Container, `Container a exceeded its local ephemeral storage limit "5Mi". `},
		"all together beyond": {more, pressure.Usage{Containers: bytes{"a": 5 * mi, "b": 7 * mi}, Volumes: bytes{"v": 1}}, pressure.Pod, "Pod ephemeral local storage usage exceeds the total limit of containers 12Mi. "},
		"the pod's own files": {one, pressure.Usage{Containers: bytes{"a": 3 * mi}, Files: 3 * mi}, pressure.Pod, "Pod ephemeral local storage usage exceeds the total limit of containers 5Mi. "},
		"volume at its limit": {spec: scratch, used: pressure.Usage{Volumes: bytes{"v": 3 * mi}, Containers: bytes{"a": 100 * mi}}},
		"volume beyond":       {scratch, pressure.Usage{Volumes: bytes{"v": 4 * mi}}, pressure.EmptyDir, `Usage of EmptyDir volume "v" exceeds the limit "3Mi". `},
		"memory is no disk":   {spec: scratch, used: pressure.Usage{Volumes: bytes{"m": 4 * mi}}},
	} {
		e := pressure.CheckStorage(podOf(t, c.spec), c.used)
		grace := time.Second
		want := pressure.Eviction{Signal: c.limit, Termination: podspec.Termination{Reason: "Evicted", Message: c.message, Grace: &grace}}
		if (e == nil) != (c.limit == "") || e != nil && !reflect.DeepEqual(*e, want) {
			t.Errorf("%s: got %+v, want %+v", name, e, want)
		}
	}
}

func TestLimited(t *testing.T) {
	for spec, want := range map[string]bool{
		`containers: [{name: a, resources: {limits: {memory: 5Mi}}}]`:                                         false,
		`containers: [{name: a, resources: {limits: {ephemeral-storage: 5Mi}}}]`:                              true,
		`{priority: 2000000000, containers: [{name: a, resources: {limits: {ephemeral-storage: 5Mi}}}]}`:      false,
		`{containers: [{name: a}], volumes: [{name: v, emptyDir: {sizeLimit: 3Mi}}]}`:                         true,
		`{containers: [{name: a}], volumes: [{name: v, emptyDir: {}}]}`:                                       false,
		`{containers: [{name: a}], volumes: [{name: v, emptyDir: {sizeLimit: "0"}}]}`:                         false,
		`{containers: [{name: a}], volumes: [{name: v, emptyDir: {medium: Memory, sizeLimit: 3Mi}}]}`:         false,
		`{containers: [{name: a}], initContainers: [{name: i, resources: {limits: {ephemeral-storage: 1}}}]}`: true,
	} {
		if got := pressure.Limited(podOf(t, spec), false); got != want {
			t.Errorf("%s: %v, want %v", spec, got, want)
		}
	}
	if pressure.Limited(podOf(t, `containers: [{name: a, resources: {limits: {ephemeral-storage: 5Mi}}}]`), true) {
		t.Error("a static pod is held to a limit")
	}
}
