package layers_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// What containers can write to is read, written, measured, given away and removed by pkg/hostfs
// alone, which is bounded and follows nothing out of a pod. It replaces these calls.
var (
	// Nowhere in the product does anything else go over whole trees: what is mounted or linked in
	// them may be anybody's.
	trees = []string{"os.RemoveAll", "os.Chown", "os.Lchown", "path/filepath.Walk", "path/filepath.WalkDir", "os.CopyFS"}
	// In packages that come by the files of pods, every file is taken for a container's.
	reads = []string{"os.ReadFile", "os.Open", "os.OpenFile", "os.Create", "os.WriteFile", "os.Chmod", "os.Truncate", "os.DirFS"}

	nearPods = []string{
		"pkg/runtime/containerconfig", "pkg/podsync/volume", "pkg/podsync/volume/...", "pkg/podsync/...", "pkg/node/measure/storage.go",
		"pkg/runtime/containerd/user.go", "pkg/render",
	}
)

// plain are the files that may call what they name all the same, and why.
var plain = map[string]string{
	"pkg/runtime/containerconfig/detect.go: os.ReadFile":           "the kernel's own files, below /proc and /sys",
	"pkg/runtime/containerconfig/detect.go: path/filepath.WalkDir": "/dev, of the host",
	"pkg/podsync/volume/hostpath/hostpath.go: os.OpenFile":         "O_EXCL and O_NONBLOCK: what is there already is not opened",
	"pkg/runtime/containerd/container.go: os.RemoveAll":            "FIFOs in the state folder, which no container sees",
	"pkg/render/pod.go: os.ReadFile":                               "a scratch folder of the command's own",
	"pkg/render/pod.go: os.WriteFile":                              "a scratch folder of the command's own",
	"pkg/runtime/containerd/volumes.go: os.RemoveAll":              "a folder that no container has been given yet",
	"cmd/nodeagent/renderpod.go: os.RemoveAll":                     "a scratch folder of the command's own",
}

func TestOnlyHostfsTouchesWhatContainersWrite(t *testing.T) {
	files := token.NewFileSet()
	seen, unused := 0, maps.Clone(plain)
	for _, root := range []string{"pkg", "cmd"} {
		err := filepath.WalkDir(filepath.Join("../..", root), func(path string, d fs.DirEntry, err error) error {
			name := filepath.ToSlash(strings.TrimPrefix(path, "../../"))
			if err != nil || d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") || strings.HasPrefix(name, "pkg/hostfs/") {
				return err
			}
			f, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			seen++
			near := matches(name, nearPods) || matches(filepath.ToSlash(filepath.Dir(name)), nearPods)
			for _, call := range calls(f) {
				forbidden := slices.Contains(trees, call.what) || near && slices.Contains(reads, call.what)
				if !forbidden {
					continue
				}
				delete(unused, name+": "+call.what)
				if plain[name+": "+call.what] == "" {
					t.Errorf("%s calls %s: use pkg/hostfs, or say in plain why no container can reach it", files.Position(call.at), call.what)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if seen < 100 {
		t.Fatalf("only %d files seen", seen)
	}
	for what := range unused {
		t.Errorf("plain names %s, which is not called any more: remove the line, or rename it with its file", what)
	}
	for _, pattern := range nearPods {
		if _, err := os.Stat(filepath.Join("../..", strings.TrimSuffix(pattern, "/..."))); err != nil {
			t.Errorf("nearPods names %s, which is not there: rename it with its files", pattern)
		}
	}
}

type call struct {
	what string // "path/filepath.Walk"
	at   token.Pos
}

// calls are the names of other packages that a file uses, by import path.
func calls(f *ast.File) []call {
	imports := map[string]string{}
	for _, i := range f.Imports {
		path, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			continue
		}
		name := path[strings.LastIndex(path, "/")+1:]
		if i.Name != nil {
			name = i.Name.Name
		}
		imports[name] = path
	}
	var found []call
	ast.Inspect(f, func(n ast.Node) bool {
		s, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if x, ok := s.X.(*ast.Ident); ok && imports[x.Name] != "" {
			found = append(found, call{imports[x.Name] + "." + s.Sel.Name, s.Pos()})
		}
		return true
	})
	return found
}
