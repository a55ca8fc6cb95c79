package layers_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// code is what documents may name.
type code struct {
	tests map[string]bool            // TestX
	names map[string]map[string]bool // package name → exported names, methods too
	files map[string]bool            // base names
}

func readCode(t *testing.T) code {
	t.Helper()
	c := code{tests: map[string]bool{}, names: map[string]map[string]bool{}, files: map[string]bool{}}
	files := token.NewFileSet()
	sources(t, ".go", func(_ string, text []byte) {
		f, err := parser.ParseFile(files, "", text, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		own := c.names[f.Name.Name]
		if own == nil {
			own = map[string]bool{}
			c.names[f.Name.Name] = own
		}
		for node := range ast.Preorder(f) {
			switch n := node.(type) {
			case *ast.FuncDecl:
				own[n.Name.Name] = true
				if strings.HasPrefix(n.Name.Name, "Test") {
					c.tests[n.Name.Name] = true
				}
			case *ast.TypeSpec:
				own[n.Name.Name] = true
			case *ast.ValueSpec:
				for _, name := range n.Names {
					own[name.Name] = true
				}
			case *ast.Field:
				for _, name := range n.Names {
					own[name.Name] = true
				}
			}
		}
	}, "pkg", "cmd", "internal", "test")
	err := filepath.WalkDir("../..", func(file string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			c.files[d.Name()] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

var (
	link      = regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)
	testName  = regexp.MustCompile(`^Test[A-Z]\w*$`)
	ourPath   = regexp.MustCompile(`^(pkg|cmd|internal|test|docs|deploy|systemd)/[\w./*-]+$`)
	ourFile   = regexp.MustCompile(`^[\w./-]+\.(go|txtar)$`)
	ourName   = regexp.MustCompile(`^([a-z]+)\.([A-Z]\w*)(\.([A-Z]\w*))?(\(.*\))?$`)
	quotation = regexp.MustCompile("`([^`\n]+)`")
)

// TestDocsNameWhatIsThere: links, files, packages, tests and Go names in documents are there.
func TestDocsNameWhatIsThere(t *testing.T) {
	c := readCode(t)
	seen := 0
	sources(t, ".md", func(name string, text []byte) {
		dir := filepath.Join("../..", filepath.Dir(name))
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat(filepath.Join(dir, m[1])); err != nil {
				t.Errorf("%s: the link %s leads nowhere", name, m[1])
			}
		}
		for _, m := range quotation.FindAllStringSubmatch(string(text), -1) {
			seen++
			if problem := c.missing(m[1]); problem != "" {
				t.Errorf("%s: `%s`: %s", name, m[1], problem)
			}
		}
	}, ".")
	if seen < 500 {
		t.Fatalf("only %d quotations seen", seen)
	}
}

// missing says what a quotation names that is not there.
func (c code) missing(quoted string) string {
	if testName.MatchString(quoted) && !c.tests[quoted] {
		return "there is no such test"
	}
	if ourPath.MatchString(quoted) {
		if found, err := filepath.Glob(filepath.Join("../..", strings.TrimSuffix(quoted, "/..."))); err != nil || len(found) == 0 {
			return "there is no such file or folder"
		}
	} else if ourFile.MatchString(quoted) && !c.files[path.Base(quoted)] {
		return "there is no such file"
	}
	if m := ourName.FindStringSubmatch(quoted); m != nil && c.names[m[1]] != nil {
		if !c.names[m[1]][m[2]] || m[4] != "" && !c.names[m[1]][m[4]] {
			return "package " + m[1] + " has no such name"
		}
	}
	return ""
}

// TestDecisionsAreNumbered: two people who write a record at the same time take one number; the
// later one gives his the next.
func TestDecisionsAreNumbered(t *testing.T) {
	entries, err := os.ReadDir("../../docs/decisions")
	if err != nil || len(entries) == 0 {
		t.Fatalf("%d records, error %v", len(entries), err)
	}
	for i, e := range entries {
		text, err := os.ReadFile(filepath.Join("../../docs/decisions", e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(e.Name(), fmt.Sprintf("%04d-", i+1)) || !strings.HasPrefix(string(text), fmt.Sprintf("# %d. ", i+1)) {
			t.Errorf("docs/decisions/%s: want %04d-….md with the title \"# %d. …\": renumber the newer record", e.Name(), i+1, i+1)
		}
	}
}
