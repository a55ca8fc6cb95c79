package podsource

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/nodeagent/nodeagent/internal/golden"
)

// TestManifests reads in.yaml and prints the pod that this node would run, or why there is none.
func TestManifests(t *testing.T) {
	golden.Run(t, "testdata/*.txtar", func(t *testing.T, files map[string][]byte) map[string][]byte {
		pods, warning, err := parseManifest(files["in.yaml"])
		var out strings.Builder
		if err != nil {
			out.WriteString("error: " + err.Error() + "\n")
		}
		if warning != nil {
			out.WriteString("warning: " + warning.Error() + "\n")
		}
		for _, pod := range pods {
			if err := identify(pod, "N1", "/manifests/in.yaml", "SEEN"); err != nil {
				t.Fatal(err)
			}
			text, err := yaml.Marshal(pod)
			if err != nil {
				t.Fatal(err)
			}
			out.WriteString("---\n" + string(text))
		}
		return map[string][]byte{"want": []byte(out.String())}
	})
}

func TestUIDFollowsContentsNodeAndFile(t *testing.T) {
	const text = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: IMAGE}]}\n"
	uid := func(image, node, file, seen string) string {
		pods, _, err := parseManifest([]byte(strings.ReplaceAll(text, "IMAGE", image)))
		if err != nil {
			t.Fatal(err)
		}
		if err := identify(pods[0], node, file, seen); err != nil {
			t.Fatal(err)
		}
		return string(pods[0].UID)
	}
	one := uid("a:1", "n1", "f1", "t1")
	if len(one) != 32 || uid("a:1", "n1", "f1", "t2") != one {
		t.Error("the UID must depend on nothing but contents, node and file")
	}
	for _, other := range []string{uid("a:2", "n1", "f1", "t1"), uid("a:1", "n2", "f1", "t1"), uid("a:1", "n1", "f2", "t1")} {
		if other == one {
			t.Error("another manifest has the same UID")
		}
	}
}

func TestPullPolicyDefaults(t *testing.T) {
	for image, want := range map[string]corev1.PullPolicy{
		"nginx": corev1.PullAlways, "nginx:latest": corev1.PullAlways, "nginx:1": corev1.PullIfNotPresent,
		"r.io:5000/nginx": corev1.PullAlways, "r.io:5000/nginx:1": corev1.PullIfNotPresent,
		"nginx@sha256:" + strings.Repeat("0", 64): corev1.PullIfNotPresent,
	} {
		if got := defaultPullPolicy(image); got != want {
			t.Errorf("%s: %s, want %s", image, got, want)
		}
	}
}

func FuzzParseManifest(f *testing.F) {
	golden.Each(f, "testdata/*.txtar", func(files map[string][]byte) { f.Add(files["in.yaml"]) })
	f.Add([]byte("{}"))
	f.Add([]byte("---\n---\n# nothing\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		pods, _, err := parseManifest(text)
		if err != nil && len(pods) > 0 {
			t.Error("pods and an error")
		}
		for _, pod := range pods {
			if err := identify(pod, "n1", "f", "seen"); err != nil {
				t.Errorf("a pod that was read has no identity: %v", err)
			}
			if pod.UID == "" || pod.Spec.RestartPolicy == "" || pod.Spec.TerminationGracePeriodSeconds == nil || pod.Namespace == "" {
				t.Errorf("defaults are missing: %+v", pod)
			}
		}
	})
}
