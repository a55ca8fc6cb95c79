package podsync

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"testing"
)

// TestEveryActionIsCarriedOut finds the actions by their method complete, and those that Execute
// carries out by the cases of its switch.
func TestEveryActionIsCarriedOut(t *testing.T) {
	files, err := filepath.Glob("podplan/action_*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("no actions: %v", err)
	}
	set := token.NewFileSet()
	missing := map[string]bool{}
	for _, name := range files {
		file, err := parser.ParseFile(set, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Name.Name == "complete" {
				missing[f.Recv.List[0].Type.(*ast.Ident).Name] = true
			}
		}
	}
	if len(missing) < len(files) {
		t.Errorf("%d actions in %d files", len(missing), len(files))
	}
	executor, err := parser.ParseFile(set, "executor.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(executor, func(n ast.Node) bool {
		if c, ok := n.(*ast.CaseClause); ok {
			for _, e := range c.List {
				if sel, ok := e.(*ast.SelectorExpr); ok {
					delete(missing, sel.Sel.Name)
				}
			}
		}
		return true
	})
	for name := range missing {
		t.Errorf("Executor.Execute has no case for podplan.%s", name)
	}
}
