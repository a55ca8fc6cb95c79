package admission_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/nodeagent/nodeagent/internal/golden"
	"github.com/nodeagent/nodeagent/pkg/podsync/admission"
	"github.com/nodeagent/nodeagent/pkg/podsync/podsysctl"
)

// TestAdmit reads node.yaml, other*.yaml (pods that run) and pod-*.yaml (pods to admit, each on its
// own), and prints one result for each pod.
func TestAdmit(t *testing.T) {
	golden.Run(t, "testdata/*.txtar", func(t *testing.T, files map[string][]byte) map[string][]byte {
		node := admission.Node{Object: read[corev1.Node](t, files["node.yaml"]), OS: "linux", AllowedUnsafeSysctls: strings.Fields(string(files["sysctls"]))}
		node.AppArmor = len(files["apparmor"]) > 0
		for _, name := range node.AllowedUnsafeSysctls {
			if err := podsysctl.CheckAllowed(name); err != nil {
				t.Fatal(err)
			}
		}
		var others []*corev1.Pod
		var out strings.Builder
		for _, name := range slices.Sorted(maps.Keys(files)) {
			if strings.HasPrefix(name, "other") {
				others = append(others, read[corev1.Pod](t, files[name]))
			}
		}
		for _, name := range slices.Sorted(maps.Keys(files)) {
			if !strings.HasPrefix(name, "pod-") {
				continue
			}
			fmt.Fprintf(&out, "%s: ", strings.TrimSuffix(strings.TrimPrefix(name, "pod-"), ".yaml"))
			if o := admission.Admit(read[corev1.Pod](t, files[name]), others, node, strings.HasPrefix(name, "pod-static")); o != nil {
				fmt.Fprintf(&out, "%s: %s\n", o.Reason, o.Message)
			} else {
				fmt.Fprintln(&out, "admitted")
			}
		}
		return map[string][]byte{"want": []byte(out.String())}
	})
}

func read[T any](t *testing.T, text []byte) *T {
	t.Helper()
	var v T
	if err := yaml.UnmarshalStrict(text, &v); err != nil {
		t.Fatal(err)
	}
	return &v
}
