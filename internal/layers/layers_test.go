// Package layers_test holds the architecture against the code: which package may import which, and
// why.
package layers_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
	"strings"
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

// Sets of packages, as patterns of path.Match on the path below the module; a trailing "/..." means
// the package and all below.
var (
	pure = []string{
		"pkg/podsync/podplan", "pkg/podsync/admission", "pkg/podsync/pullsecret", "pkg/podsync/storagelimit", "pkg/runtime/ocispec", "pkg/status", "pkg/proxier/snapshot",
		"pkg/status/summary", "pkg/podsync/handler", "pkg/podsync/fieldref", "pkg/podsync/volume/payload", "pkg/runtime/cgroup/qos", "pkg/runtime/containerconfig/podfiles", "pkg/runtime/containerconfig/serviceenv",
		"pkg/runtime/logpump/crilog", "pkg/podsync/podsysctl",
	}
	contracts = []string{"pkg/runtime", "pkg/podsync/volume"}
	edges     = []string{
		"pkg/runtime/containerd", "pkg/runtime/selinux", "pkg/runtime/podnet", "pkg/podsync/volume/*", "pkg/podsync/probe", "pkg/podsync/hook", "pkg/podsync/podsource",
		"pkg/status/report", "pkg/node/facts", "pkg/server/...", "pkg/podsync/objects", "pkg/runtime/containerconfig", "pkg/runtime/logpump", "pkg/runtime/cgroup",
	}
	loops    = []string{"pkg/podsync", "pkg/proxier", "pkg/bootstrap"}
	pods     = []string{"pkg/podsync/...", "pkg/runtime/..."}
	services = []string{"pkg/proxier/..."}
	product  = []string{"pkg/...", "cmd/..."}
)

// direct are imports that a package may not write itself.
var direct = []struct {
	why    string
	who    []string
	forbid []string
	except []string
}{
	{"a plan has no effects and no clock", pure, []string{
		"context", "os", "os/exec", "net", "syscall", "golang.org/x/sys/...", "math/rand", "math/rand/v2", "log", "log/slog",
	}, nil},
	{"edges meet in loops and in agent, not in each other", edges, below(edges), nil},
	{"loops ask for roles; agent names the edges", loops, below(edges), nil},
	{"only agent names concrete parts", []string{"pkg/..."}, []string{module + "pkg/agent"}, []string{"pkg/agent/..."}},
	// render is a second, small composition root: it names edges as agent does, and nothing is
	// below it but cmd.
	{"render starts nothing and asks nobody", []string{"pkg/render"}, append(below(loops), module+"pkg/runtime/containerd", module+"pkg/runtime/podnet",
		module+"pkg/podsync/probe", module+"pkg/podsync/hook", module+"pkg/podsync/objects", module+"pkg/runtime/logpump", module+"pkg/status/report", "k8s.io/client-go/...", "net", "os/exec"), nil},
	{"only cmd renders", []string{"pkg/..."}, []string{module + "pkg/render"}, nil},
	{"one owner of the containerd client", []string{"pkg/...", "cmd/..."}, []string{"github.com/containerd/containerd/v2/..."}, []string{"pkg/runtime/containerd"}},
	{"one owner of SELinux labels", []string{"pkg/...", "cmd/..."}, []string{"github.com/opencontainers/selinux/..."}, []string{"pkg/runtime/selinux"}},
	{"one owner of CNI", []string{"pkg/...", "cmd/..."}, []string{"github.com/containerd/go-cni", "github.com/containernetworking/cni/..."}, []string{"pkg/runtime/podnet"}},
	{
		// facts asks for the host's routes: /proc/net answers for the main thread's namespace,
		// whatever that is by then
		"one owner of netlink in each half, and one for the node's own addresses",
		[]string{"pkg/...", "cmd/..."},
		[]string{"github.com/vishvananda/netlink/..."},
		[]string{"pkg/runtime/podnet", "pkg/node/facts", "pkg/proxier/ipvs", "pkg/proxier/conntrack", "pkg/proxier/nfacct", "pkg/proxier/leftovers"},
	},
	{
		"client-go belongs to the parts that talk to the API server",
		[]string{"pkg/...", "cmd/..."},
		[]string{"k8s.io/client-go/..."},
		[]string{"pkg/podsync/podsource", "pkg/status/report", "pkg/bootstrap", "pkg/server/...", "pkg/agent", "pkg/podsync/objects"},
	},
	{"the halves meet in agent", pods, below(services), nil},
	{"the halves meet in agent", services, below(pods), nil},
}

// deep are imports that may not be reached through any other package either.
var deep = []struct {
	why    string
	who    []string
	forbid []string
}{
	{"a plan is tested without a cluster", pure, []string{
		"k8s.io/client-go/...", "github.com/containerd/containerd/v2/...", "github.com/vishvananda/netlink/...",
	}},
	{"contracts are free of the tools that fulfil them", contracts, []string{
		"k8s.io/client-go/...", "github.com/containerd/containerd/v2/...", "github.com/vishvananda/netlink/...",
	}},
	{"the product never links Kubernetes itself", product, []string{"k8s.io/kubernetes/..."}},
}

func TestImports(t *testing.T) {
	for _, p := range list(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		for _, r := range direct {
			if !matches(name, r.who) || matches(name, r.except) {
				continue
			}
			for _, i := range p.Imports {
				if matches(i, r.forbid) && family(i) != family(p.ImportPath) {
					t.Errorf("%s imports %s: %s", name, i, r.why)
				}
			}
		}
		for _, r := range deep {
			if !matches(name, r.who) {
				continue
			}
			for _, i := range p.Deps {
				if matches(i, r.forbid) {
					t.Errorf("%s reaches %s: %s", name, i, r.why)
				}
			}
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

// TestRulesBite proves that the matcher finds what it should, so that an empty result means
// something.
func TestRulesBite(t *testing.T) {
	for _, c := range []struct {
		name    string
		pattern []string
		want    bool
	}{
		{"k8s.io/client-go/rest", []string{"k8s.io/client-go/..."}, true},
		{"k8s.io/client-gopher", []string{"k8s.io/client-go/..."}, false},
		{"pkg/podsync/volume/emptydir", []string{"pkg/podsync/volume/*"}, true},
		{"pkg/podsync/volume", []string{"pkg/podsync/volume/*"}, false},
		{"net", []string{"net"}, true},
		{"net/netip", []string{"net"}, false},
	} {
		if got := matches(c.name, c.pattern); got != c.want {
			t.Errorf("matches(%q, %v) = %v", c.name, c.pattern, got)
		}
	}
}

// family is the edge that a package belongs to: an edge may be several packages (the volume plugins
// share how files are written), and they may import each other.
func family(importPath string) string {
	name := strings.TrimPrefix(importPath, module)
	for _, root := range []string{"pkg/podsync/volume", "pkg/runtime/logpump", "pkg/runtime/cgroup", "pkg/server", "pkg/runtime/podnet"} {
		if name == root || strings.HasPrefix(name, root+"/") {
			return root
		}
	}
	return name
}

func below(names []string) []string {
	out := make([]string, 0, len(names))
	for _, n := range names {
		out = append(out, module+n)
	}
	return out
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

func list(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Doc,Imports,Deps", module+"pkg/...", module+"cmd/...").Output()
	if err != nil {
		t.Fatalf("listing packages: %v", err)
	}
	var found []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		found = append(found, p)
	}
	if len(found) < 10 {
		t.Fatalf("only %d packages found", len(found))
	}
	return found
}
