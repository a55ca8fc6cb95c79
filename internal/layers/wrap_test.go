package layers_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

const (
	commentEnds  = 100 // the column before which comments end; a tab is four
	markdownEnds = 120
)

// sources calls visit with every file below the roots whose name ends so; with its path below the
// module.
func sources(t *testing.T, ending string, visit func(name string, text []byte), roots ...string) {
	t.Helper()
	seen := 0
	for _, root := range roots {
		err := filepath.WalkDir(filepath.Join("../..", root), func(file string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() && (d.Name() == ".git" || d.Name() == "bin" || d.Name() == "testdata") {
				if err == nil {
					err = filepath.SkipDir
				}
				return err
			}
			if d.IsDir() || !strings.HasSuffix(file, ending) {
				return nil
			}
			text, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			seen++
			visit(filepath.ToSlash(strings.TrimPrefix(file, "../../")), text)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if seen < 5 {
		t.Fatalf("only %d files %s seen", seen, ending)
	}
}

// TestCommentsEnd: comments end before column 100. Lines that cannot be cut (links, drawings,
// directives to tools) are let through.
func TestCommentsEnd(t *testing.T) {
	files := token.NewFileSet()
	sources(t, ".go", func(name string, text []byte) {
		f, err := parser.ParseFile(files, name, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(text), "\n")
		for _, group := range f.Comments {
			for _, c := range group.List {
				at := files.Position(c.Pos())
				line := lines[at.Line-1]
				before := strings.TrimSpace(line[:at.Column-1])
				long := utf8.RuneCountInString(strings.ReplaceAll(line, "\t", "    ")) > commentEnds
				if long && before == "" && !uncut(c.Text) {
					t.Errorf("%s:%d: the comment goes beyond column %d: wrap it", name, at.Line, commentEnds)
				}
			}
		}
	}, "pkg", "cmd", "internal", "test")
}

// uncut is true of comments that stay on one line: a directive, a link, or a preformatted line.
func uncut(comment string) bool {
	return strings.HasPrefix(comment, "//nolint") || strings.HasPrefix(comment, "//go:") ||
		strings.HasPrefix(comment, "//\t") || strings.Contains(comment, "://")
}

// TestMarkdownWraps: prose wraps at column 120; tables, code and links do not.
func TestMarkdownWraps(t *testing.T) {
	sources(t, ".md", func(name string, text []byte) {
		code := false
		for i, line := range strings.Split(string(text), "\n") {
			if strings.HasPrefix(strings.TrimSpace(line), "```") {
				code = !code
			}
			table := strings.HasPrefix(strings.TrimSpace(line), "|")
			if !code && !table && utf8.RuneCountInString(line) > markdownEnds && !strings.Contains(line, "](") {
				t.Errorf("%s:%d: the line goes beyond column %d: wrap it", name, i+1, markdownEnds)
			}
		}
	}, ".")
}
