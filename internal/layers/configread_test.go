package layers_test

import (
	"go/ast"
	"go/types"
	"slices"
	"testing"

	"golang.org/x/tools/go/packages"
)

// TestConfigIsRead: somebody outside of pkg/config reads each field of config.Config. A field that
// is resolved and then read by nobody would look like a setting with an effect: `nodeagent config
// check` would not name it.
func TestConfigIsRead(t *testing.T) {
	const home = module + "pkg/config"
	found, err := packages.Load(&packages.Config{
		Mode: packages.NeedName | packages.NeedFiles | packages.NeedCompiledGoFiles | packages.NeedImports | packages.NeedTypes |
			packages.NeedSyntax | packages.NeedTypesInfo | packages.NeedExportFile,
	}, module+"pkg/...", module+"cmd/...")
	if err != nil {
		t.Fatal(err)
	}
	read := map[string]bool{}
	var unread []string
	for _, p := range found {
		for _, e := range p.Errors {
			t.Fatalf("loading %s: %v", p.PkgPath, e)
		}
		if p.PkgPath == home {
			unread = fieldsOf(p.Types.Scope().Lookup("Config").Type(), home, map[string]bool{})
			continue
		}
		for _, f := range p.Syntax {
			written := assigned(f)
			for node := range ast.Preorder(f) {
				if s, ok := node.(*ast.SelectorExpr); ok && !written[s] {
					if name := fieldName(p.TypesInfo.Selections[s], home); name != "" {
						read[name] = true
					}
				}
			}
		}
	}
	if len(unread) < 80 || !read["Config.Proxy"] {
		t.Fatalf("%d fields, %d of them read: the test looks in the wrong place", len(unread), len(read))
	}
	for _, name := range slices.DeleteFunc(unread, func(name string) bool { return read[name] }) {
		t.Errorf("config.%s is read by nobody: give it a reader, or remove it and say in withoutEffect what happens instead", name)
	}
}

// fieldsOf lists the fields of a struct of a package, and of the structs of that package which they
// are, as Type.Field.
func fieldsOf(typ types.Type, home string, seen map[string]bool) []string {
	for {
		switch t := typ.(type) {
		case *types.Pointer:
			typ = t.Elem()
			continue
		case *types.Slice:
			typ = t.Elem()
			continue
		case *types.Map:
			typ = t.Elem()
			continue
		}
		break
	}
	named, ok := typ.(*types.Named)
	if !ok || named.Obj().Pkg() == nil || named.Obj().Pkg().Path() != home || seen[named.Obj().Name()] {
		return nil
	}
	seen[named.Obj().Name()] = true
	s, ok := named.Underlying().(*types.Struct)
	if !ok {
		return nil
	}
	var names []string
	for f := range s.Fields() {
		names = append(names, named.Obj().Name()+"."+f.Name())
		names = append(names, fieldsOf(f.Type(), home, seen)...)
	}
	return names
}

// assigned are the selectors that a file writes to: that is no reading.
func assigned(f *ast.File) map[*ast.SelectorExpr]bool {
	written := map[*ast.SelectorExpr]bool{}
	for node := range ast.Preorder(f) {
		if a, ok := node.(*ast.AssignStmt); ok {
			for _, left := range a.Lhs {
				if s, ok := left.(*ast.SelectorExpr); ok {
					written[s] = true
				}
			}
		}
	}
	return written
}

// fieldName is Type.Field of a selection in a struct of the package; "" for every other.
func fieldName(s *types.Selection, home string) string {
	if s == nil || s.Kind() != types.FieldVal {
		return ""
	}
	typ := s.Recv()
	if p, ok := typ.(*types.Pointer); ok {
		typ = p.Elem()
	}
	named, ok := typ.(*types.Named)
	if !ok || named.Obj().Pkg() == nil || named.Obj().Pkg().Path() != home {
		return ""
	}
	return named.Obj().Name() + "." + s.Obj().Name()
}
