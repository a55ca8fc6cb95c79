package version

import (
	"fmt"
	"runtime/debug"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/version"
)

// TestKubernetes: the string is read by kubeadm and the scheduler with this parser, and says the
// minor that it says.
func TestKubernetes(t *testing.T) {
	v, err := version.ParseSemantic(Kubernetes())
	if err != nil {
		t.Fatal(err)
	}
	if v.Minor() != Minor || !strings.HasPrefix(Kubernetes(), fmt.Sprintf("v%d.%d.%d+nodeagent.", v.Major(), v.Minor(), v.Patch())) {
		t.Errorf("%s does not say 1.%d", Kubernetes(), Minor)
	}
	if build, ok := debug.ReadBuildInfo(); ok {
		for _, m := range build.Deps {
			if m.Path == "k8s.io/apimachinery" {
				if m.Replace != nil {
					m = m.Replace
				}
				if want := fmt.Sprintf("v0.%d.", v.Minor()); !strings.HasPrefix(m.Version, want) {
					t.Errorf("built with %s %s, want %s*", m.Path, m.Version, want)
				}
			}
		}
	}
	if !strings.HasPrefix(UserAgent(), "nodeagent/"+Agent()+" ") {
		t.Errorf("user agent %q", UserAgent())
	}
}
