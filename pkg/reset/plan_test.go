package reset

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/nodeagent/nodeagent/internal/golden"
)

// TestPlan: what a machine has in, the steps out.
func TestPlan(t *testing.T) {
	t.Parallel()
	golden.Run(t, "testdata/*.txtar", func(t *testing.T, files map[string][]byte) map[string][]byte {
		var o Observed
		var options Options
		for name, into := range map[string]any{"observed.yaml": &o, "options.yaml": &options} {
			if err := yaml.UnmarshalStrict(files[name], into); err != nil {
				t.Fatalf("reading %s: %v", name, err)
			}
		}
		var b strings.Builder
		for _, s := range Plan(o, options) {
			fmt.Fprintln(&b, s)
		}
		if b.Len() == 0 {
			b.WriteString("nothing to do\n")
		}
		return map[string][]byte{"want": []byte(b.String())}
	})
}

// everyMachine yields all combinations of what a machine can have.
func everyMachine(yield func(Observed)) {
	for bits := range 1 << 12 {
		bit := func(i int) bool { return bits>>i&1 == 1 }
		o := Observed{Unit: "u", Active: bit(0), Enabled: bit(1)}
		if bit(0) || bit(2) {
			o.Answers = "/sock"
		}
		if bit(3) {
			o.Containerd = "/containerd"
			if bit(4) {
				o.Pods = []Pod{{UID: "1", Namespace: "default", Name: "a", Sandbox: "s1", Containers: []Container{{"c1", "c"}}}}
				o.Networks = map[string]string{"s1": "/netns/1"}
			}
			if bit(5) {
				o.Networks = map[string]string{"s1": "/netns/1", "s2": "/netns/2"}
				o.Namespaces = []types.UID{"1", "2"}
			}
			if bit(6) {
				o.Residue = []types.UID{"1", "kubelets"}
				o.Foreign = map[types.UID]bool{"kubelets": true}
			}
			o.Pump = bit(7)
		}
		if bit(8) {
			o.Rules, o.RulesUnknown = []string{"iptables, IPv4"}, "x"
		}
		if bit(9) {
			o.Cgroups = []string{"/kubepods"}
		}
		if bit(10) {
			o.Files, o.Empty = []string{"/kubeconfig"}, []string{"/pki"}
		}
		if bit(11) {
			o.Folders, o.Empty = []string{"/state"}, []string{"/pki", "/root"}
		}
		yield(o)
	}
}

// TestPlanKeepsItsOrder: phases never go back; nothing of a kubelet's pods is removed; each step
// says why; a machine on which the agent has not been is left alone.
func TestPlanKeepsItsOrder(t *testing.T) {
	t.Parallel()
	everyMachine(func(o Observed) {
		steps := Plan(o, Options{Images: true})
		certain := false
		for i, s := range steps {
			if i > 0 && s.Phase < steps[i-1].Phase {
				t.Fatalf("%s after %s", s, steps[i-1])
			}
			if s.Why == "" || strings.Contains(s.String(), "phase ") || s.id == "kubelets" {
				t.Fatalf("step %+v", s)
			}
			certain = certain || !s.Maybe
			if s.Action == RemoveEmpty && !certain {
				t.Fatalf("an empty folder goes where nothing else does: %v", steps)
			}
		}
	})
}
