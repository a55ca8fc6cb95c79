package layers_test

import (
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const architecture = "docs/architecture.md"

// row is what docs/architecture.md says of one package.
type row struct {
	layer int
	kind  string // PURE, CONTRACT, EDGE, LOOP, WIRING
	half  string // pods, services, node; "" for what belongs to none
}

// owner is a library that only some packages may import.
type owner struct {
	what     string
	paths    []string
	packages []string
}

// table is what docs/architecture.md says of all packages.
type table struct {
	rows     map[string]row // by path below the module
	owners   []owner
	families []string // folders whose edges may import each other
}

var (
	packageRow = regexp.MustCompile("^\\| `([^`]+)` \\| *(\\S+) *\\| *(\\S+) *\\| *(\\S+) *\\|")
	ownerRow   = regexp.MustCompile("^\\| ([^`|]+) \\| (`[^|]+) \\| ([^|]+) \\|$")
	quoted     = regexp.MustCompile("`([^`]+)`")
)

// readTable parses the tables of docs/architecture.md.
func readTable(t *testing.T) table {
	t.Helper()
	text, err := os.ReadFile(path.Join("../..", architecture))
	if err != nil {
		t.Fatal(err)
	}
	parsed := table{rows: map[string]row{}}
	for i, line := range strings.Split(string(text), "\n") {
		if m := packageRow.FindStringSubmatch(line); m != nil {
			name := underPkg(m[1])
			layer, err := strconv.Atoi(m[2])
			if err != nil || parsed.rows[name].kind != "" ||
				!slices.Contains([]string{"PURE", "CONTRACT", "EDGE", "LOOP", "WIRING"}, m[3]) ||
				!slices.Contains([]string{"pods", "services", "node", "–"}, m[4]) {
				t.Errorf("%s:%d: want one row | `package` | layer number | PURE, CONTRACT, EDGE, LOOP or WIRING "+
					"| pods, services, node or – | what it is |, have %s", architecture, i+1, line)
			}
			parsed.rows[name] = row{layer, m[3], strings.Trim(m[4], "–")}
		} else if m := ownerRow.FindStringSubmatch(line); m != nil {
			parsed.owners = append(parsed.owners, owner{strings.TrimSpace(m[1]), names(m[2], ""), names(m[3], "pkg/")})
		} else if list, ok := strings.CutPrefix(line, "Families: "); ok {
			parsed.families = names(list, "pkg/")
		}
	}
	if len(parsed.rows) < 50 || len(parsed.owners) < 5 || len(parsed.families) == 0 {
		t.Fatalf("%s: %d packages, %d owners, %d families: the test cannot read the tables",
			architecture, len(parsed.rows), len(parsed.owners), len(parsed.families))
	}
	return parsed
}

// names lists what stands in backquotes; packages are written as paths below pkg.
func names(text, prefix string) []string {
	var found []string
	for _, m := range quoted.FindAllStringSubmatch(text, -1) {
		if prefix == "" {
			found = append(found, m[1])
		} else {
			found = append(found, underPkg(m[1]))
		}
	}
	return found
}

func underPkg(name string) string {
	if strings.HasPrefix(name, "cmd/") {
		return name
	}
	return "pkg/" + name
}

// family is the folder of edges that a package belongs to, or the package itself.
func (parsed table) family(name string) string {
	for _, root := range parsed.families {
		if name == root || strings.HasPrefix(name, root+"/") {
			return root
		}
	}
	return name
}

// TestTable: every package has a row in docs/architecture.md, every row a package, and the first
// word of the package doc is the row's kind.
func TestTable(t *testing.T) {
	parsed := readTable(t)
	gone := map[string]bool{}
	for name := range parsed.rows {
		gone[name] = true
	}
	kind := regexp.MustCompile(`^Package \S+ is (?:an? )?(PURE|CONTRACT|EDGE|LOOP|WIRING)\b`)
	for _, p := range list(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		delete(gone, name)
		r, ok := parsed.rows[name]
		if !ok {
			t.Errorf("%s has no row in the table of %s: add one with its layer and kind", name, architecture)
			continue
		}
		if strings.HasPrefix(name, "cmd/") {
			continue
		}
		if m := kind.FindStringSubmatch(p.Doc); m == nil || m[1] != r.kind {
			t.Errorf("%s is %s in the table of %s, but its package doc begins %q: begin it \"Package %s is %s: …\", or change the row",
				name, r.kind, architecture, p.Doc, path.Base(name), r.kind)
		}
		for half, root := range map[string]string{"services": "pkg/proxier", "node": "pkg/node"} {
			if name == root || strings.HasPrefix(name, root+"/") {
				if r.half != half && r.layer > 1 {
					t.Errorf("%s lies below %s: its half in the table of %s is %s", name, root, architecture, half)
				}
			}
		}
	}
	for name := range gone {
		t.Errorf("%s stands in the table of %s, but there is no such package: remove or rename its row", name, architecture)
	}
	for _, o := range parsed.owners {
		for _, name := range o.packages {
			if _, ok := parsed.rows[name]; !ok {
				t.Errorf("%s is said in %s to own %s, but there is no such package", name, architecture, o.what)
			}
		}
	}
}
