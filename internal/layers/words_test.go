package layers_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"
	"unicode"
)

// retired are words that names in the code no longer contain, and what they say instead
// (docs/glossary.md).
var retired = map[string]string{
	"looker": "observe", "standing": "ContainerState", "edges": "Executor, or the role that is meant", "mail": "inbox", "flight": "running action",
	"beat": "heartbeat", "glance": "QuickCheck", "portal": "Frontend", "withdraw": "MarkUnready", "withdrawn": "unready", "bury": "forget",
	"strays": "leftovers",
}

// TestRetiredWords: names in the code are words of the glossary.
func TestRetiredWords(t *testing.T) {
	files := token.NewFileSet()
	seen := 0
	sources(t, ".go", func(name string, text []byte) {
		f, err := parser.ParseFile(files, name, text, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for node := range ast.Preorder(f) {
			id, ok := node.(*ast.Ident)
			if !ok {
				continue
			}
			seen++
			for _, word := range camel(id.Name) {
				if instead, ok := retired[word]; ok {
					t.Errorf("%s: %s has the word %q: say %s (docs/glossary.md)", files.Position(id.Pos()), id.Name, word, instead)
				}
			}
		}
	}, "pkg", "cmd")
	if seen < 10000 {
		t.Fatalf("only %d names seen", seen)
	}
}

// camel splits a name into its words, in lower case.
func camel(name string) []string {
	var words []string
	start, runes := 0, []rune(name)
	for i := 1; i <= len(runes); i++ {
		if i == len(runes) || runes[i] == '_' || unicode.IsUpper(runes[i]) && !unicode.IsUpper(runes[i-1]) {
			words = append(words, strings.ToLower(strings.Trim(string(runes[start:i]), "_")))
			start = i
		}
	}
	return words
}

func TestCamel(t *testing.T) {
	if got := strings.Join(camel("lookAgainHTTP_ok"), " "); got != "look again http ok" {
		t.Errorf("words: %s", got)
	}
}
