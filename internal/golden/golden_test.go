package golden

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

func TestRunComparesEachArchive(t *testing.T) {
	Run(t, "testdata/*.txtar", func(_ *testing.T, files map[string][]byte) map[string][]byte {
		return map[string][]byte{"want": bytes.ToUpper(files["in"])}
	})
}

func TestProblemsNamesMissingDifferentAndUnmade(t *testing.T) {
	got := problems(
		map[string][]byte{"in": []byte("x\n"), "want": []byte("a\nb\n"), "want.err": []byte("e\n")},
		map[string][]byte{"want": []byte("a\nc\n"), "new": []byte("n\n")},
	)
	text := strings.Join(got, "\n")
	for _, part := range []string{"file new is not in the archive", "file want differs", "- b", "+ c", "want.err is expected"} {
		if !strings.Contains(text, part) {
			t.Errorf("no %q in:\n%s", part, text)
		}
	}
	if same := problems(map[string][]byte{"want": []byte("a\n")}, map[string][]byte{"want": []byte("a")}); len(same) != 0 {
		t.Errorf("a missing last newline counts as a difference: %v", same)
	}
}

func TestWriteBackReplacesAddsAndDrops(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.txtar")
	archive := txtar.Parse([]byte("about\n-- in --\ni\n-- want --\nold\n-- want.gone --\ng\n"))
	writeBack(t, path, archive, map[string][]byte{"want": []byte("new"), "want.more": []byte("m\n")})
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := "about\n-- in --\ni\n-- want --\nnew\n-- want.more --\nm\n"; string(data) != want {
		t.Errorf("got %q, want %q", data, want)
	}
}

func TestLineDiffShowsOnlyWhatChanged(t *testing.T) {
	got := LineDiff("1\n2\n3\n4\n5\n6\n7\n", "1\n2\n3\nfour\n5\nfive and a half\n6\n7\n")
	want := "  …\n  2\n  3\n- 4\n+ four\n  5\n+ five and a half\n  6\n  7\n"
	if got != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
}
