// Package layers_test compares the architecture with the code: which package may import which, and
// why. The table of packages in docs/architecture.md is its input.
package layers_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/nodeagent/nodeagent/"

// pkg is what `go list -json` says of one package.
type pkg struct {
	ImportPath string
	Doc        string
	Imports    []string
	Deps       []string
}

// effects are what a plan must not import: it has no effects and no clock.
var effects = []string{
	"context", "os", "os/...", "net", "syscall", "golang.org/x/sys/...", "math/rand/...", "crypto/rand", "log/...",
}

// tools are what contracts and plans must not reach through any other package: they are tested
// without a cluster, a runtime or a kernel.
var tools = []string{
	"k8s.io/client-go/...", "github.com/containerd/containerd/v2/...", "github.com/vishvananda/netlink/...",
	"github.com/containernetworking/cni/libcni",
}

// directly are imports that the layers allow and that are wrong all the same. Patterns are those of
// path.Match; a trailing "/..." means the package and all below.
var directly = []struct {
	why    string
	who    []string
	forbid []string
}{
	{
		"render starts nothing and asks nobody", []string{"pkg/render"}, []string{
			module + "pkg/podsync", module + "pkg/proxier", module + "pkg/bootstrap/...", module + "pkg/runtime/containerd", module + "pkg/runtime/podnet",
			module + "pkg/podsync/probe", module + "pkg/podsync/hook", module + "pkg/podsync/objects", module + "pkg/runtime/logpump",
			module + "pkg/status/report", "net", "os/exec",
		},
	},
	{
		"what the planner's neighbours share with it stands in podspec",
		[]string{"pkg/podsync/*", "pkg/podsync/volume/...", "pkg/runtime/...", "pkg/node/...", "pkg/status/*", "pkg/server/..."},
		[]string{module + "pkg/podsync/podplan"},
	},
	{"the nouns of pods lie below everything else of ours", []string{"pkg/podsync/podspec"}, []string{module + "..."}},
	{"only tests build Kubernetes itself, in modules of their own", []string{"pkg/...", "cmd/..."}, []string{"k8s.io/kubernetes/..."}},
	{
		"the pump is a small process: it links the log packages only",
		[]string{"cmd/nodeagent-pump"},
		[]string{module + "pkg/agent", module + "pkg/config", module + "pkg/runtime/logpump"},
	},
}

func TestImports(t *testing.T) {
	parsed := readTable(t)
	for _, p := range list(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		for _, i := range p.Imports {
			if why := parsed.forbids(name, i); why != "" {
				t.Errorf("%s imports %s: %s", name, strings.TrimPrefix(i, module), why)
			}
		}
		for _, i := range p.Deps {
			if why := parsed.forbidsReach(name, i); why != "" {
				t.Errorf("%s reaches %s: %s", name, i, why)
			}
		}
	}
}

// forbids says why a package may not import another; "" if it may.
func (parsed table) forbids(name, imported string) string {
	from := parsed.rows[name]
	for _, r := range directly {
		if matches(name, r.who) && matches(imported, r.forbid) {
			return r.why
		}
	}
	if from.kind == "PURE" && matches(imported, effects) {
		return "a pure package has no effects and no clock: take the value as an argument, or make the package an EDGE"
	}
	for _, o := range parsed.owners {
		if matches(imported, o.paths) && !slices.Contains(o.packages, name) {
			return o.what + " belongs to " + strings.Join(o.packages, ", ") + " alone (" + architecture + "): ask one of them through an interface"
		}
	}
	target, ours := strings.CutPrefix(imported, module)
	to, known := parsed.rows[target]
	if !ours || !known {
		return ""
	}
	if forTests(target) && !forTests(name) {
		return "it is for tests only"
	}
	if from.half != "" && to.half != "" && from.half != to.half {
		return "the halves " + from.half + " and " + to.half + " meet in agent: declare an interface where it is used, " +
			"or move the noun that both need below both halves"
	}
	return parsed.forbidsLayer(name, target)
}

// forbidsLayer says why an import does not point down.
func (parsed table) forbidsLayer(name, target string) string {
	from, to := parsed.rows[name], parsed.rows[target]
	effect := to.kind == "EDGE" || to.kind == "LOOP" || to.kind == "WIRING"
	switch {
	case parsed.family(name) == parsed.family(target) && from.layer >= to.layer:
		return ""
	case from.kind == "PURE" && effect:
		return "a pure package imports pure packages and contracts only"
	case from.layer < to.layer:
		return "arrows point down (" + architecture + "): ask for it through an interface of your own, or move what both need further down"
	case from.layer == to.layer && effect && from.layer > 0:
		return "edges, loops and wiring do not import each other: declare an interface where it is used; the wiring passes the other in"
	}
	return ""
}

// forbidsReach says why a package may not depend on another, through whatever packages.
func (parsed table) forbidsReach(name, dep string) string {
	switch kind := parsed.rows[name].kind; {
	case kind == "PURE" && matches(dep, tools):
		return "a plan is tested without a cluster"
	case kind == "CONTRACT" && matches(dep, tools):
		return "contracts are free of the tools that fulfil them"
	case matches(dep, []string{"k8s.io/kubernetes/..."}):
		return "the product never links Kubernetes itself"
	}
	return ""
}

// forTests is true of exported suites, fakes and readers of test input.
func forTests(name string) bool {
	return strings.HasSuffix(name, "test") || strings.HasPrefix(path.Base(name), "fake")
}

// TestRulesBite proves that the rules find what they should, so that silence means something.
func TestRulesBite(t *testing.T) {
	parsed := readTable(t)
	for _, c := range []struct{ name, imported, want string }{
		{"pkg/podsync/podplan", "os/exec", "no effects"},
		{"pkg/podsync/podplan", module + "pkg/hostfs", "pure packages and contracts only"},
		{"pkg/podsync/podplan", module + "pkg/runtime", ""},
		{"pkg/podsync", module + "pkg/podsync/probe", "do not import each other"},
		{"pkg/podsync/probe", module + "pkg/podsync", "do not import each other"},
		{"pkg/podsync", module + "pkg/agent", "arrows point down"},
		{"pkg/podsync", module + "pkg/proxier/snapshot", "meet in agent"},
		{"pkg/proxier", module + "pkg/runtime/ocispec", "meet in agent"},
		{"pkg/podsync", module + "pkg/keyed", ""},
		{"pkg/keyed", module + "pkg/podsync", "arrows point down"},
		{"pkg/agent", module + "pkg/render", "do not import each other"},
		{"pkg/agent", module + "pkg/runtime/fakeruntime", "for tests only"},
		{"pkg/agent", "github.com/containerd/containerd/v2/client", "belongs to"},
		{"pkg/podsync/volume/projected", module + "pkg/podsync/volume/configmap", ""},
		{"pkg/podsync/volume/projected", module + "pkg/podsync/probe", "do not import each other"},
	} {
		if got := parsed.forbids(c.name, c.imported); got == "" != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s imports %s: %q, want %q", c.name, c.imported, got, c.want)
		}
	}
	if parsed.forbidsReach("pkg/runtime", "k8s.io/client-go/rest") == "" || parsed.forbidsReach("pkg/status", "k8s.io/client-go/rest") == "" {
		t.Error("contracts and plans may reach client-go")
	}
	for _, c := range []struct {
		name, pattern string
		want          bool
	}{
		{"k8s.io/client-go/rest", "k8s.io/client-go/...", true},
		{"k8s.io/client-gopher", "k8s.io/client-go/...", false},
		{"pkg/podsync/volume/emptydir", "pkg/podsync/volume/*", true},
		{"pkg/podsync/volume", "pkg/podsync/volume/*", false},
		{"net/netip", "net", false},
	} {
		if got := matches(c.name, []string{c.pattern}); got != c.want {
			t.Errorf("matches(%q, %v) = %v", c.name, c.pattern, got)
		}
	}
}

// TestNames keeps every package's one-line purpose and forbids names that say nothing.
func TestNames(t *testing.T) {
	for _, p := range list(t) {
		switch base := path.Base(p.ImportPath); base {
		case "util", "utils", "common", "helper", "helpers", "types", "manager", "base":
			t.Errorf("%s: a package called %s says nothing of what it is for", p.ImportPath, base)
		}
		if p.Doc == "" {
			t.Errorf("%s has no package doc", p.ImportPath)
		}
	}
}

func matches(name string, patterns []string) bool {
	for _, p := range patterns {
		if root, all := strings.CutSuffix(p, "/..."); all && (name == root || strings.HasPrefix(name, root+"/")) {
			return true
		}
		if ok, err := path.Match(p, name); err == nil && ok {
			return true
		}
	}
	return false
}

// list runs `go list` once for all tests.
func list(t *testing.T) []pkg {
	t.Helper()
	found, err := listed()
	if err != nil || len(found) < 10 {
		t.Fatalf("listing packages: %d found, error %v", len(found), err)
	}
	return found
}

var listed = sync.OnceValues(func() ([]pkg, error) {
	out, err := exec.Command("go", "list", "-json=ImportPath,Doc,Imports,Deps", module+"pkg/...", module+"cmd/...").Output()
	if err != nil {
		return nil, err
	}
	var found []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return found, nil
		} else if err != nil {
			return nil, err
		}
		found = append(found, p)
	}
})
