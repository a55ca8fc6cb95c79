package layers_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// TestLogLines: a log line begins with a capital, has an even number of keys and values, and the
// key of its error is err.
func TestLogLines(t *testing.T) {
	areas := []string{"pkg", "cmd"}
	files := token.NewFileSet()
	seen := 0
	sources(t, ".go", func(name string, text []byte) {
		if strings.HasSuffix(name, "_test.go") {
			return
		}
		f, err := parser.ParseFile(files, name, text, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for node := range ast.Preorder(f) {
			message, keys, ok := logLine(node)
			if !ok {
				continue
			}
			seen++
			at := files.Position(node.Pos())
			if first, _ := utf8.DecodeRuneInString(message); unicode.IsLower(first) {
				t.Errorf("%s: the log line %q begins with a small letter", at, message)
			}
			for _, key := range keys {
				if slices.Contains([]string{"error", "cause", "e", "problem"}, key) {
					t.Errorf("%s: the key of an error is err, not %q", at, key)
				}
			}
		}
	}, areas...)
	if seen < 100 {
		t.Fatalf("only %d log lines seen", seen)
	}
}

var logger = regexp.MustCompile(`(?i)log(ger)?$`)

// logLine is a call of a slog.Logger: its message and the constant keys of its attributes.
func logLine(node ast.Node) (message string, keys []string, ok bool) {
	call, isCall := node.(*ast.CallExpr)
	if !isCall {
		return "", nil, false
	}
	method, isMethod := call.Fun.(*ast.SelectorExpr)
	if !isMethod || !logger.MatchString(lastName(method.X)) {
		return "", nil, false
	}
	var rest []ast.Expr
	switch method.Sel.Name {
	case "Debug", "Info", "Warn", "Error":
		rest = call.Args
	case "DebugContext", "InfoContext", "WarnContext", "ErrorContext":
		rest = call.Args[1:]
	case "Log":
		rest = call.Args[2:]
	default:
		return "", nil, false
	}
	message, ok = constant(rest[0])
	for i := 1; i < len(rest); i += 2 {
		if key, ok := constant(rest[i]); ok {
			keys = append(keys, key)
		} else {
			i--
		}
	}
	return message, keys, ok
}

func constant(e ast.Expr) (string, bool) {
	if b, ok := e.(*ast.BasicLit); ok && b.Kind == token.STRING {
		s, err := strconv.Unquote(b.Value)
		return s, err == nil
	}
	return "", false
}

// lastName is the last word of a selector: log of p.cfg.log, Log of Log().
func lastName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	case *ast.CallExpr:
		return lastName(e.Fun)
	}
	return ""
}
